from pipeline.io.plural import counted


def test_one_and_any_other_number() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
    assert [counted(n, "category is", "categories are") for n in (1, 2)] == ["1 category is", "2 categories are"]
