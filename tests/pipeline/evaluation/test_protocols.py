import json
import re
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation import protocols
from pipeline.evaluation.protocols import PROTOCOLS, Protocol, protocol, protocol_of

FORTH, BACK = "source_to_target", "target_to_source"


def _named(name: str = "own", **choices: Any) -> Protocol:
    return Protocol(**{"name": name, "directions": (FORTH,), "base": "box", **choices})


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package with a module of protocols."""
    package = tmp_path / "users_of_nemf"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "protocols.py").write_text(
        "from pipeline.evaluation.protocols import PROTOCOLS, Protocol\n"
        "STRICT = Protocol(name='strict', directions=('source_to_target',), base='box', inclusive=False)\n"
        "SAME = PROTOCOLS['spair']\n"
        "TAKEN = Protocol(name='spair', directions=('source_to_target',), base='image')\n"
        "WORD = 'strict'\n"
    )
    (package / "needs_more.py").write_text("import users_of_nemf.not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "users_of_nemf.protocols"


def test_an_unknown_name_lists_the_names_there_are():
    with pytest.raises(ValueError, match=r"no protocol 'spaire'; there are: spair, nemf, cats.*package.module:NAME"):
        protocol("spaire")


@pytest.mark.parametrize(
    ("name", "directions", "base"),
    [
        ("spair", (FORTH,), "box"),
        ("nemf", (BACK,), "box"),
        ("pf-willow-bbox-kp", (FORTH, BACK), "keypoints"),
        ("pf-pascal", (FORTH, BACK), "image"),
    ],
)
def test_the_choices_of_each_protocol(name: str, directions: tuple[str, ...], base: str):
    assert (protocol(name).name, protocol(name).directions, protocol(name).base) == (name, directions, base)


def test_every_protocol_is_found_by_its_own_name():
    assert all(protocol(name).name == name for name in PROTOCOLS)


def test_a_protocol_of_the_users_own_is_found_by_module_and_name(own: str):
    assert protocol(f"{own}:STRICT") == _named("strict", inclusive=False)
    assert protocol(f"{own}:SAME") is PROTOCOLS["spair"]


@pytest.mark.parametrize("attribute", ["ABSENT", "WORD"])
def test_a_module_without_such_a_protocol_is_named(own: str, attribute: str):
    with pytest.raises(
        ValueError, match=rf"{own} has no pipeline\.evaluation\.protocols\.Protocol called '{attribute}'"
    ):
        protocol(f"{own}:{attribute}")


def test_a_module_that_is_absent_is_named_even_where_another_imports_it(own: str):
    with pytest.raises(ValueError, match=r"'nowhere\.at_all:STRICT': there is no module 'nowhere' on Python's path"):
        protocol("nowhere.at_all:STRICT")
    with pytest.raises(ValueError, match=r"no module 'users_of_nemf\.not_installed'"):
        protocol("users_of_nemf.needs_more:STRICT")


def test_a_protocol_may_not_take_the_name_of_another(own: str):
    with pytest.raises(ValueError, match=r"protocols:TAKEN' is called 'spair', which is another one"):
        protocol(f"{own}:TAKEN")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"directions": ()}, "own: directions must be of source_to_target, target_to_source"),
        ({"directions": (FORTH, FORTH)}, "own: directions must be of .* each once"),
        ({"directions": (FORTH, "sideways")}, "own: directions must be of .*sideways"),
        ({"directions": FORTH}, "own: directions must be of"),  # a string, the comma forgotten
        ({"space": "squash"}, "own: squash and letterbox need side_px"),
        ({"space": "letterbox"}, "own: squash and letterbox need side_px"),
        ({"side_px": 256}, "own: .*original pixels have none"),
        ({"padding": -1}, "own: only the keypoints' box is padded"),
        ({"base": "image", "margin": 0.05}, "own: only the object box has a margin"),
        ({"directions": (BACK,), "points": "geometry-aware"}, "own: .*known of the target alone"),
        ({"directions": (FORTH, BACK), "truth": "nearest valid"}, "own: .*known of the target alone"),
        ({"nearest_only": True, "points": "inside"}, "own: nearest_only compares all keypoints of a pair"),
        ({"occluded": "halved"}, "own: occluded keypoints are halved in a letterbox"),
        ({"base": "image", "of": "flow", "nearest_only": True}, "own: flow is scored in original pixels"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        _named(**choices)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_comes_back_from_json(name: str):
    assert protocol_of(json.loads(json.dumps(asdict(PROTOCOLS[name])))) == PROTOCOLS[name]


@pytest.mark.parametrize(
    ("average", "column"), [("image", "pck_image"), ("point", "pck_point"), ("class", "pck_class_mean")]
)
def test_the_average_names_the_column_of_metrics(average: Any, column: str):
    assert _named(average=average).column == column


def test_the_description_names_the_image_the_error_is_measured_in():
    assert "target object box" in protocol("spair").describe(FORTH)
    assert "source object box" in protocol("nemf").describe(BACK)
    assert "source image" in protocol("pf-pascal").describe(BACK)
    assert "target image" in protocol("pf-pascal").describe(FORTH)


@pytest.mark.parametrize(
    ("name", "direction", "description"),
    [
        (
            "spair",
            FORTH,
            "source to target, T = longest side of the target object box, original pixels, "
            "d <= alpha T, average over images",
        ),
        (
            "cats",
            BACK,
            "target to source, T = longest side of the source object box, pixels of a 256 x 256 squash, "
            "d <= alpha T, query keypoints cut down to whole pixels, average over images",
        ),
        (
            "lpmflow",
            FORTH,
            "source to target, T = longest side of the source object box, pixels of a 512 x 512 squash, "
            "d <= alpha T, average over images",
        ),
        (
            "geoaware-point",
            FORTH,
            "source to target, T = longest side of the target object box, pixels of a 840 x 840 letterbox, "
            "d < alpha T, average over keypoints",
        ),
        (
            "pf-willow-bbox-legacy@240",
            BACK,
            "target to source, T = longest side of the source keypoints' tight box padded with -2, "
            "pixels of a 240 x 240 squash, d <= alpha T, average over images",
        ),
    ],
)
def test_the_description_says_all_seven_choices(name: str, direction: str, description: str):
    assert protocol(name).describe(direction) == description


def test_the_description_says_which_keypoints_count_and_how_categories_are_weighted():
    described = _named(points="inside", average="class").describe(FORTH)
    assert described.endswith("d <= alpha T, keypoints inside both images, average over categories")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "bbox"}, "protocol mine: base must be box, box or image, image, keypoints; got 'bbox'"),
        ({"base_of": "target"}, "base_of must be reference, query; got 'target'"),
        ({"space": "squish", "side_px": 256}, "space must be original, squash, letterbox; got 'squish'"),
        ({"points": "Inside"}, "points must be all, inside, truncated, geometry-aware; got 'Inside'"),
        ({"average": "points"}, "average must be image, point, class; got 'points'"),
        ({"space": "squash", "side_px": 0}, "side_px must be at least 1; got 0"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Protocol(**{"name": "mine", "directions": (FORTH,), "base": "box", **change})


@pytest.mark.parametrize("name", ["..a:B", ":STRICT", "module:", "a b:STRICT"])
def test_what_is_no_name_of_a_module_is_answered_with_all_there_are(name: str):
    with pytest.raises(ValueError, match=r"there is no protocol .*package\.module:NAME for your own"):
        protocol(name)


def test_the_example_of_the_docstring_is_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, code, name = re.search(
        r"one in (\S+):\n\n(    .*?)\n\nIt is used as `nemf evaluate --protocol (\S+)", protocols.__doc__, re.DOTALL
    ).groups()
    (tmp_path / file).write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert protocol(name) == Protocol(name="strict", directions=(FORTH,), base="box", inclusive=False)


def test_choices_of_another_version_are_told():
    with pytest.raises(ValueError, match="a protocol of another version: it has the unknown choices smoothing"):
        protocol_of({**asdict(PROTOCOLS["spair"]), "smoothing": 3})


def test_a_module_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "breaks_at_once.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"breaks_at_once cannot be imported \(ZeroDivisionError: division by zero\)"):
        protocol("breaks_at_once:STRICT")
