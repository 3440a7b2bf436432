import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from make import pair_row, run_description, write_pairs
from PIL import Image

from jobs.pair import main
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Slice
from pipeline.matching.stages import MatchStage, StageConfig, decode_slice, load
from pipeline.runs.folder import open_run


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    """A photograph, and the same without its 20 leftmost columns and 10 topmost rows."""
    whole = skimage.data.chelsea()
    paths = [tmp_path / "whole.png", tmp_path / "cut.png"]
    for path, image in zip(paths, [whole, whole[10:, 20:]], strict=True):
        Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def test_json_says_where_the_points_are(photographs: list[str], capsys: pytest.CaptureFixture[str]):
    assert (
        main([*photographs, "--points", "150,100", "300.5,140", "--json", "--matcher", "nearest-neighbour:dense-sift"])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["matcher"] == "nearest-neighbour:dense-sift"
    assert answer["query_hw"] == [300, 451]
    assert answer["reference_hw"] == [290, 431]
    assert [point["query_xy_px"] for point in answer["points"]] == [[150, 100], [300.5, 140]]
    matched = np.array([point["reference_xy_px"] for point in answer["points"]])
    assert np.abs(matched - [[130, 90], [280.5, 130]]).max() < 6
    assert all(0.5 < point["confidence"] <= 1 for point in answer["points"])


def test_a_table_and_a_drawing_of_a_grid(photographs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "drawn" / "match.jpg"
    assert main([*photographs, "--out", str(out)]) == 0
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["query", "x", "y", "reference", "x", "y", "confidence"]
    assert len(rows) == 16
    assert [float(number) for number in rows[0].split()[:2]] == [55.9, 37.0]  # 451 / 8 - 1/2, 300 / 8 - 1/2
    assert last == f"drawn: {out}"
    with Image.open(out) as drawn:
        assert drawn.format == "JPEG"
        assert drawn.width > drawn.height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points", "10"], "--points takes X,Y pairs such as 10,20 30.5,40; got '10'"),
        (["--points", "10,20,30"], "--points takes X,Y pairs"),
        (["--points", "ten,20"], "--points takes X,Y pairs"),
        (["--points", "nan,20"], "--points nan,20 is outside the query image"),
        (["--points", "10,20", "451,20"], "--points 451,20 is outside the query image, whose x go from 0 to 450"),
        (["--points", "-3,20"], "--points -3,20 is outside the query image"),
        (["--out", "match.xyz"], "--out match.xyz: '.xyz' is no image format to write"),
        (["--out", "match"], "is no image format to write"),
        (["--matcher", "nothing"], "there is no matcher 'nothing'"),
    ],
)
def test_bad_input_is_one_line(
    photographs: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main([*photographs, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_an_image_that_is_not_there(photographs: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([photographs[0], "nowhere.png"]) == 2
    assert "nowhere.png" in capsys.readouterr().err


def test_a_photograph_is_not_drawn_over(photographs: list[str], capsys: pytest.CaptureFixture[str]):
    before = Path(photographs[1]).read_bytes()
    assert main([*photographs, "--out", photographs[1]]) == 2
    assert photographs[1] in capsys.readouterr().err
    assert Path(photographs[1]).read_bytes() == before


def test_the_answer_is_the_row_of_match_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The result equals that of `nemf match`, whose pairs share a batch; large photographs are read at a half."""
    whole = skimage.data.chelsea()
    images = {"a": whole[:200, :260], "b": whole[30:210, 40:300], "c": whole[60:, 100:]}
    for name, rgb in images.items():
        Image.fromarray(rgb).save(tmp_path / f"{name}.png")
    Image.fromarray(whole).resize((2001, 1401)).save(tmp_path / "d.png")
    points = np.array([[20.0, 30.0], [101.25, 77.5], [150.125, 60.0]], np.float32).tolist()
    rows = [
        pair_row(
            f"{source}:{target}",
            source_uri=str(tmp_path / f"{source}.png"),
            target_uri=str(tmp_path / f"{target}.png"),
            source_xy_px=points,
        )
        for source, target in ("ab", "bc", "cd", "da")
    ]
    config = StageConfig(
        run=open_run(str(tmp_path / "run"), {**run_description(), "reduced_side": 320}, dry_run=True),
        attempt=1,
        stop_file=str(tmp_path / "run" / "stop"),
        in_progress_folder=str(tmp_path / "run" / "begun"),
        matching=MatchConfig(matcher="nemf-small"),
    )
    pairs = write_pairs(tmp_path / "pairs.parquet", rows)
    (decoded,) = decode_slice(Slice(file=pairs, row_group=0, rows=np.arange(4, dtype=np.int32)), config)
    stage = MatchStage(config, load(config.matching, "cpu"))
    matched = {row["pair_id"]: row for row in stage.match(decoded).to_pylist()}

    for row in rows:
        torch.set_num_threads(2)
        line = [row["source_uri"], row["target_uri"], "--pair-id", row["pair_id"], "--json", "--device", "cpu"]
        assert main([*line, "--points", *(f"{x},{y}" for x, y in points)]) == 0
        answer = json.loads(capsys.readouterr().out)["points"]
        assert torch.get_num_threads() == 1
        expected = matched[row["pair_id"]]
        assert expected["status"] == "ok"
        assert [point["reference_xy_px"] for point in answer] == expected["reference_xy_px"]
        assert [point["confidence"] for point in answer] == expected["point_confidence"]
