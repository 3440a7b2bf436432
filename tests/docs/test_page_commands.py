"""The commands and the Python of the other pages run as well, on small files written here, and without Ray.

`nemf match` is a dry run, after which a finished run of true answers is planted. test_snippets follows
the pages that a reader follows from their beginning to their end.
"""

import importlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from doc_pages import ROOT, command_lines, python_of
from make import encoded, match_rows, noise_rgb, run_description
from planted_run import N_POINTS, finish, plant_run, rows_of

from jobs import cli, match
from jobs.command import parse
from nemf import pretrained
from pipeline.pseudo_labels.calibration import read_calibration
from pipeline.runs.events import EventLog
from pipeline.runs.flow_codec import encode_flow
from pipeline.runs.folder import open_run
from pipeline.runs.parts import write_part

STARTS_RAY = {"neighbours", "image-list", "retry-errors", "submit", "train", "recipe", "demo"}
"""Words of the commands that are not run here: tests of jobs run them."""
NOT_HERE = {"ap-10k", "cub", "mp-100", "soco", "spair-u", "tss", "pf-pascal", "pf-willow", "coco", "animal-pose", "kap"}
"""Data sets of the pages of which no file is written here, and a protocol that reads score maps."""
HW = (240, 320)
POINTS_PX = [[20.0 + 15 * k, 10.0 + 12 * (k % 4)] for k in range(N_POINTS)]
SHIFT_PX = 5.0  # from every point to its true match


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: photographs, SPair-71k of two pairs, and runs with half of their answers right."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/1.png", "photos/2.png", "photos/3.png", "a.jpg", "b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(encoded(noise_rgb(len(name), HW)))
    Path("photos/pairs.csv").write_text("source_uri,target_uri\n1.png,2.png\n2.png,3.png\n")
    _write_spair(tmp_path / "SPair-71k")
    own = read_calibration(str(pretrained.folder("nemf-small") / "calibration.json")).matcher_fingerprint
    Path("runs").mkdir()
    for seed, (run, manifest) in enumerate({"a": "annotated", "b": "others", "val": "val"}.items()):
        _, made = plant_run(tmp_path, 300, seed=seed, name=f"runs/{run}", fingerprint=own)
        shutil.copy(made, f"{manifest}.parquet")
    return tmp_path


def _write_spair(root: Path) -> None:
    """Two pairs of four images; a true match is SHIFT_PX to the right of its point."""
    for name in ("Layout/large", "PairAnnotation/test", "ImageAnnotation/cat", "JPEGImages/cat"):
        (root / name).mkdir(parents=True)
    matches_px = [[x + SHIFT_PX, y] for x, y in POINTS_PX]
    ids = [str(k) for k in range(N_POINTS)]
    for name in ("1", "2", "3", "4"):
        points_px = POINTS_PX if name in ("1", "3") else matches_px
        image = {"kps": dict(zip(ids, points_px, strict=True)), "azimuth_id": 0}
        (root / "ImageAnnotation" / "cat" / f"{name}.json").write_text(json.dumps(image))
        (root / "JPEGImages" / "cat" / f"{name}.jpg").write_bytes(encoded(noise_rgb(int(name), HW), "JPEG"))
    for source, target in (("1", "2"), ("3", "4")):
        pair = {
            "category": "cat",
            "src_imname": f"{source}.jpg",
            "trg_imname": f"{target}.jpg",
            "src_imsize": [*HW[::-1], 3],
            "trg_imsize": [*HW[::-1], 3],
            "src_kps": POINTS_PX,
            "trg_kps": matches_px,
            "kps_ids": ids,
            "src_bndbox": [10, 5, 150, 100],
            "trg_bndbox": [15, 5, 155, 100],
        }
        (root / "PairAnnotation" / "test" / f"{source}-{target}:cat.json").write_text(json.dumps(pair))
    (root / "Layout" / "large" / "test.txt").write_text("1-2:cat\n3-4:cat\n")


def follow(page: str) -> list[str]:
    """Run the commands of a page in their order, from the working folder; the names of those that ran."""
    ran = []
    for words in command_lines(page_of(page)):
        name, *arguments = words
        if {*words} & (STARTS_RAY | NOT_HERE):
            continue
        if name == "match":
            _plant(arguments)
        else:
            assert main_of(name)(arguments) == 0, words
        ran.append(name)
    return ran


def main_of(name: str) -> Callable[[Sequence[str]], int]:
    """The entry point of a command."""
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"jobs.{cli.module_of(name)}").main
    return main


def _plant(arguments: Sequence[str]) -> None:
    """A dry run of `nemf match`, and the finished run as it would be if every answer were right; none where one is."""
    config, _ = parse(match.Config, arguments, "match")
    if Path(config.out).exists():
        return
    assert match.main([*arguments, "--dry-run"]) == 0, arguments
    own = read_calibration(str(pretrained.folder("nemf-small") / "calibration.json")).matcher_fingerprint
    description = run_description(config.pairs, outputs=list(config.outputs), points=config.points)
    run = open_run(config.out, {**description, "matcher_fingerprint": own})
    rows = [
        {
            "pair_id": pair["pair_id"],
            "query_hw": HW,
            "reference_hw": HW,
            "query_xy_px": pair["source_xy_px"],
            "reference_xy_px": pair["target_xy_px"],
            "point_confidence": [0.99] * len(pair["source_xy_px"]),
        }
        for pair in rows_of(config.pairs)
    ]
    write_part(run.out, match_rows(*rows))
    finish(run, config.pairs)


def page_of(name: str) -> str:
    """The text of a page, `README.md` or one of docs/."""
    return (ROOT / name if name == "README.md" else ROOT / "docs" / name).read_text("utf-8")


def test_the_readme(folder: Path, capsys: pytest.CaptureFixture[str]):
    ran = follow("README.md")

    assert ran == [
        *("pair", "field", "prepare", "match", "evaluate", "report"),
        *("match", "pseudo-label", "status", "verify"),
    ]
    assert [name for name in ("match.png", "field.png", "report.html") if not Path(name).exists()] == []
    assert len(rows_of("labels.parquet")) == 2
    one_pair, table = python_of(page_of("README.md"))
    names: dict[str, Any] = {"query_rgb": noise_rgb(0, (100, 150)), "reference_rgb": noise_rgb(1, (100, 150))}
    exec(one_pair, names)
    assert names["match"].reference_xy_px.shape == (1, 2)
    capsys.readouterr()
    exec(table, {})
    assert re.search(r"^cat( +100\.0)+$", capsys.readouterr().out, re.MULTILINE)


def test_data_sets(folder: Path):
    assert follow("datasets.md") == ["prepare", "match", "evaluate", "match", "prepare", "prepare"]

    protocols = set(pd.read_parquet("metrics.parquet")["protocol"])
    assert protocols == {"spair", "spair-dagger", "spair-geometry-aware"}


def test_protocols(folder: Path):
    assert main_of("prepare")(["--dataset", "spair", "--root", "SPair-71k", "--out", "pairs.parquet"]) == 0
    _plant(["--pairs", "pairs.parquet", "--out", "runs/x"])

    assert follow("protocols.md") == ["evaluate", "match", "match", "evaluate"]

    assert set(pd.read_parquet("metrics.parquet")["protocol"]) == {"geco"}


def test_a_second_look(folder: Path):
    assert main_of("prepare")(["--dataset", "spair", "--root", "SPair-71k", "--out", "pairs.parquet"]) == 0

    assert follow("zoom.md") == ["match", "match"]


def test_operations(folder: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree("runs/a", "runs/x")
    assert follow("operations.md") == ["status", "verify", "compact"]  # the first attempt, in a log of its own
    log = EventLog("runs/x/attempts/00002.events", 2)
    log.record("committed", rows=100)
    log.record("committed", rows=200)
    log.flush()

    (snippet,) = python_of(page_of("operations.md"))
    capsys.readouterr()
    exec(snippet, {})
    assert capsys.readouterr().out.count("300") == 1


def test_pseudo_labels(folder: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree("runs/a", "runs/x")
    for manifest in ("pairs", "p"):
        shutil.copy("annotated.parquet", f"{manifest}.parquet")
    Path("nemf/pretrained/nemf-small").mkdir(parents=True)

    assert follow("pseudo-labels.md") == [
        *("match", "match", "calibrate", "evaluate", "report"),
        *("match", "calibrate", "pseudo-label"),
    ]

    assert "expected to be right, 90." in capsys.readouterr().out


def test_the_flow_is_read_without_this_package(folder: Path):
    flow_px = np.random.default_rng(0).normal(0, 9, (*HW, 2))
    earlier = {"pair_id": "p", "status": "error", "error_stage": "fetch", "error_kind": "timeout"}
    row = {"pair_id": "p", "attempt": 2, "query_hw": HW, "reference_hw": HW, **encode_flow(flow_px)}
    write_part("runs/mine", match_rows(earlier))
    write_part("runs/mine", match_rows(row))
    (snippet,) = python_of(page_of("tables.md"))
    names: dict[str, Any] = {}

    exec(snippet, names)

    assert len(names["rows"]) == 1
    assert np.abs(names["flow_px"] - flow_px).max() <= names["row"].flow_scale / 2
