import pytest

from pipeline.datasets.common.nested_text import is_list, read_list

POINTS = [["1.5", "2"], ["3", "4.25"]]


@pytest.mark.parametrize(
    "text",
    [
        "[[1.5, 2], [3, 4.25]]",
        "[[1.5,2],[3,4.25]]",
        "((1.5, 2), (3, 4.25))",
        "[(1.5, 2), (3, 4.25)]",
        "{{1.5,2},{3,4.25}}",
        " [[1.5  2  ]\n [3   4.25]] ",
        "array([[1.5 , 2 ],\n       [3 , 4.25]], dtype=float32)",
        "np.array([[1.5, 2], [3, 4.25]])",
        "tensor([[1.5, 2], [3, 4.25]], dtype=torch.float64)",
        "[array([1.5, 2], dtype=float32) array([3, 4.25], dtype=float32)]",
        "[[np.float32(1.5), np.float64(2)], [np.float32(3), np.float64(4.25)]]",
        "[(np.float32(1.5), 2), ((3), 4.25)]",
    ],
)
def test_points(text: str) -> None:
    assert is_list(text)
    assert read_list(text) == POINTS


@pytest.mark.parametrize(
    "text",
    [
        """['left eye', "it's", 'caf\u00e9', '']""",
        r"""['left eye', 'it\'s', 'caf\u00e9', '']""",
        r"""["left eye", "it's", "caf\u00e9", ""]""",
        """['left eye' "it's" 'caf\u00e9' '']""",
        """array(['left eye', "it's", 'caf\u00e9', ''], dtype='<U8')""",
        """('left eye', "it's", 'caf\u00e9', '')""",
        """[left eye, "it's", caf\u00e9, '']""",
        """{"left eye","it's",caf\u00e9,""}""",
    ],
)
def test_texts(text: str) -> None:
    assert read_list(text) == ["left eye", "it's", "caf\u00e9", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        ("[[]]", [[]]),
        ("()", []),
        ("(1,)", ["1"]),
        ("[null, None, NULL, nan]", [None, None, None, "nan"]),
        ("[-1.5e-3 1E5 -inf]", ["-1.5e-3", "1E5", "-inf"]),
        ("[left eye]", ["left eye"]),
        ("['a', 1]", ["a", "1"]),
    ],
)
def test_lists_of_other_values(text: str, expected: list[object]) -> None:
    assert read_list(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no list"),
        ("1,2;3,4", "it is no list"),
        ("[1, 2", "it is no list"),
        ("[1, 2]]", "brackets do not match"),
        ("[1, 2)", "brackets do not match"),
        ("[1, 2] [3]", "it is no list"),
        ("['a]", "it is no list"),
        ("[[0. 1.]\n ...\n [8. 9.]]", "values are left out"),
        ("[" * 9 + "]" * 9, "lists in more than 8 others"),
    ],
)
def test_what_is_no_list(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_list(text)


@pytest.mark.parametrize("text", ["1,2;3,4", "nose;tail", "nan", "", "a[0];b"])
def test_texts_that_are_no_lists(text: str) -> None:
    assert not is_list(text)
