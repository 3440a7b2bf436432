from pathlib import Path

import numpy as np
import pytest
import torch
from make import encoded, noise_rgb
from official_nemf import SMALL, official_shapes, official_state_dict
from PIL import Image

from jobs.field import Config, main
from nemf import checkpoints, load_matcher
from nemf.official.names import from_official_state_dict, official_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a tiny network with random weights, and of a search of few steps."""
    tensors = official_state_dict(official_shapes(**SMALL), seed=3)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    search = {"patchmatch_steps": 2, "refine_steps": 2}
    checkpoints.save(folder, from_official_state_dict(tensors, 2), official_config(meta, 2), search=search)
    return str(folder)


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    """A query image 32 wide and 24 high, and a reference image 41 wide and 81 high."""
    paths = [tmp_path / "query.png", tmp_path / "reference.png"]
    for seed, (path, hw) in enumerate(zip(paths, [(24, 32), (81, 41)], strict=True)):
        path.write_bytes(encoded(noise_rgb(seed, hw)))
    return [str(path) for path in paths]


def test_it_draws_and_says_where_the_score_is_highest(
    photographs: list[str], checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "drawn" / "field.png"
    arguments = ["--point", "12.5,7", "--resolution", "41", "--matcher", checkpoint, "--device", "cpu"]
    assert main([*photographs, *arguments, "--out", str(out)]) == 0
    header, query, highest, matched, confidence, drawn = capsys.readouterr().out.splitlines()
    assert header.split() == ["x", "y", "score"]
    assert query.split() == ["query", "12.5", "7.0"]
    assert drawn == f"drawn: {out}"
    with Image.open(out) as picture:
        assert picture.format == "PNG"

    images = [np.asarray(Image.open(path)) for path in photographs]
    matcher = load_matcher(checkpoint, device="cpu")
    scores = matcher.score_map(*images, (12.5, 7), (41, 21))
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    assert highest.startswith("highest of 21 x 41 ")  # every second pixel of 41 x 81
    assert [float(number) for number in highest.split()[-3:]] == [2 * column, 2 * row, round(float(scores.max()), 4)]
    match = matcher.match(*images, [[12.5, 7]])
    score = matcher.scores(*images, (12.5, 7), match.reference_xy_px)
    expected = [*match.reference_xy_px[0], *score]
    assert [float(number) for number in matched.split()[-3:]] == pytest.approx(expected, abs=0.06)
    assert confidence == f"confidence, the probability that it is right: {match.point_confidence.item():.2f}"


def test_the_suffix_decides_the_format(photographs: list[str], checkpoint: str, tmp_path: Path):
    for suffix, begins in ((".JPG", b"\xff\xd8"), (".svg", b"<?xml")):
        out = tmp_path / f"field{suffix}"
        arguments = ["--point", "0,0", "--resolution", "9", "--matcher", checkpoint, "--out", str(out)]
        assert main([*photographs, *arguments]) == 0
        assert out.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--point": "10"}, "--point takes X,Y such as 120,80; got '10'"),
        ({"--point": "32,20"}, "--point 32,20 is outside the query image, whose x go from 0 to 31 and y from 0 to 23"),
        ({"--point": "-3,20"}, "--point -3,20 is outside the query image"),
        ({"--out": "field.xyz"}, "--out field.xyz: '.xyz' is no image format to write"),
        ({"--resolution": "1"}, "--resolution must be 2 to 2048; got 1"),
        ({"--resolution": "2049"}, "--resolution must be 2 to 2048; got 2049"),
        ({"--matcher": "identity"}, "--matcher identity has no matching field to draw: give a NeMF network"),
        ({"--matcher": "nearest-neighbour:dense-sift"}, "has no matching field to draw"),
    ],
)
def test_bad_input_is_one_line(
    photographs: list[str], checkpoint: str, changed: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
):
    flags = {"--point": "1,2", "--out": "field.png", "--matcher": checkpoint, "--resolution": "9", **changed}
    assert main([*photographs, *(word for flag in flags.items() for word in flag)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_an_image_one_pixel_high_has_no_contours(
    photographs: list[str], checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = tmp_path / "line.png"
    line.write_bytes(encoded(noise_rgb(0, (1, 9))))
    out = tmp_path / "field.png"
    arguments = ["--point", "1,2", "--out", str(out), "--matcher", checkpoint, "--resolution", "9"]
    assert main([photographs[0], str(line), *arguments]) == 2
    assert "contours need a reference image and scores of at least 2 x 2" in capsys.readouterr().err
    assert not out.exists()


def test_a_photograph_is_not_drawn_over(photographs: list[str], capsys: pytest.CaptureFixture[str]):
    before = Path(photographs[1]).read_bytes()
    assert main([*photographs, "--point", "1,2", "--out", photographs[1]]) == 2
    assert photographs[1] in capsys.readouterr().err
    assert Path(photographs[1]).read_bytes() == before


def test_the_shipped_network_is_the_default():
    assert Config(query="a", reference="b", point="1,2", out="c.png").matcher == "nemf-small"
