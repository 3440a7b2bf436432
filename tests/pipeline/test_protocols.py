import pytest

from pipeline.protocols import protocol


def test_an_unknown_name_lists_the_names_there_are():
    with pytest.raises(ValueError, match=r"no protocol 'spaire'; there are: spair, nemf, cats.*package.module:NAME"):
        protocol("spaire")


@pytest.mark.parametrize(
    ("name", "directions", "base"),
    [
        ("spair", ("source_to_target",), "box"),
        ("nemf", ("target_to_source",), "box"),
        ("pf-willow-bbox-kp", ("source_to_target", "target_to_source"), "keypoints"),
        ("pf-pascal", ("source_to_target", "target_to_source"), "image"),
    ],
)
def test_the_choices_of_each_protocol(name: str, directions: tuple[str, ...], base: str):
    assert (protocol(name).name, protocol(name).directions, protocol(name).base) == (name, directions, base)


def test_the_description_names_the_image_the_error_is_measured_in():
    assert "target object box" in protocol("spair").describe("source_to_target")
    assert "source object box" in protocol("nemf").describe("target_to_source")
    assert "source image" in protocol("pf-pascal").describe("target_to_source")
