"""One run over rows of every kind: each ends as its documented status, and none touches its neighbours."""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skimage.data
import torch
from command import Finished, run_job
from image_bytes import IMPOSTORS, written_by_tifffile
from make import encoded, pair_row, write_pairs
from PIL import Image

from jobs import evaluate, match, report, verify
from nemf import load_matcher
from nemf.matcher import Matcher
from pipeline.runs.flow_codec import encode_confidence, encode_flow
from pipeline.runs.lease import read_attempts
from pipeline.runs.parts import read_matches
from schemas.matches import RESULT_COLUMNS

MATCHER = "nearest-neighbour:dense-sift?image_size=160"
BOTH = ("source_to_target", "target_to_source")
POINTS = [[30.0, 20.0], [100.5, 64.0], [160.0, 110.25]]
PHOTOGRAPH = skimage.data.chelsea()[20:148, 100:292]
CELL_PX = 192 / (4 * 160 / 8)
NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Good:
    """A row that must be answered, and the pixels its images hold."""

    pair_id: str
    row: dict[str, Any]
    source_rgb: np.ndarray
    target_rgb: np.ndarray
    finds_itself: bool = True
    """Both images show the same content at the same position."""


@dataclasses.dataclass(frozen=True)
class Bad:
    """A row that must end as an error, with its stage, kind and a part of its message."""

    pair_id: str
    row: dict[str, Any]
    stage: str
    kind: str
    says: str


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def _good_rows(root: Path) -> list[Good]:
    """Rows that must be answered; their images are written to `root`, and their URIs relative to it."""

    def write(name: str, image: np.ndarray | Image.Image, image_format: str = "PNG", **options: Any) -> str:
        (root / name).write_bytes(encoded(image, image_format, **options))
        return name

    def good(pair_id: str, target: str, target_rgb: np.ndarray, finds_itself: bool = True, **columns: Any) -> Good:
        row = {"source_uri": "photograph.png", "target_uri": target, **columns}
        return Good(pair_id, row, PHOTOGRAPH, target_rgb, finds_itself)

    write("photograph.png", PHOTOGRAPH)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side: shown after a quarter turn clockwise
    on_its_side = write("on-its-side.jpg", np.rot90(PHOTOGRAPH), "JPEG", quality=95, exif=turned)
    upright_rgb = np.rot90(np.asarray(Image.open(root / on_its_side)), k=-1)
    upright = {"source_uri": write("upright.png", upright_rgb), "target_uri": on_its_side}
    cmyk = write("cmyk.jpg", Image.fromarray(PHOTOGRAPH).convert("CMYK"), "JPEG", quality=95)
    palette = Image.fromarray(PHOTOGRAPH).quantize(64)
    grey = PHOTOGRAPH[..., 1]
    thumbnail = (PHOTOGRAPH[::8, ::8], {"subfiletype": 1, "subifds": 1})
    (root / "camera.tif").write_bytes(written_by_tifffile(thumbnail, PHOTOGRAPH, photometric="rgb"))
    shifted, one_pixel = PHOTOGRAPH[8:, 16:], PHOTOGRAPH[:1, :1]
    outside = [[-50.0, 400.0], [9999.0, 3.0]]
    return [
        good("good", "photograph.png", PHOTOGRAPH),
        good("good, absolute", str(root / "photograph.png"), PHOTOGRAPH),
        good("good, shifted", write("shifted.png", shifted), shifted, finds_itself=False),
        good("inline", "absent.jpg", PHOTOGRAPH, target_image=encoded(PHOTOGRAPH)),
        Good("exif-rotated", upright, upright_rgb, upright_rgb),
        good("cmyk", cmyk, _rgb(Image.open(root / cmyk))),
        good("16-bit grey", write("grey.png", grey.astype(np.uint16) * 257), np.repeat(grey[..., None], 3, axis=2)),
        good("palette", write("palette.png", palette), _rgb(palette)),
        good("thumbnail first", "camera.tif", PHOTOGRAPH),
        good(
            "one pixel",
            write("one-pixel.png", one_pixel),
            one_pixel,
            finds_itself=False,
            source_xy_px=[[9.0, 9.0]],
            target_xy_px=[[0.0, 0.0]],
        ),
        good("outside", "photograph.png", PHOTOGRAPH, False, source_xy_px=outside, target_xy_px=outside),
        good("points null", "photograph.png", PHOTOGRAPH, source_xy_px=None, target_xy_px=None),
        good("points empty", "photograph.png", PHOTOGRAPH, source_xy_px=[], target_xy_px=[]),
    ]


def _bad_rows(root: Path) -> list[Bad]:
    def bad_image(name: str, data: bytes | None, stage: str, kind: str, says: str, side: str = "target") -> Bad:
        if data is not None:
            (root / name).write_bytes(data)
        row = {"source_uri": "photograph.png", "target_uri": "photograph.png", f"{side}_uri": name}
        return Bad(name, row, stage, kind, f"{root / name}: {says}")

    def bad_points(pair_id: str, says: str, **columns: Any) -> Bad:
        row = {"source_uri": "photograph.png", "target_uri": "photograph.png", **columns}
        return Bad(pair_id, row, "manifest", "bad_keypoints", says)

    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    jpeg = encoded(PHOTOGRAPH, "JPEG")
    too_large = Image.new("1", (8192, 6145))  # by one row
    floats = written_by_tifffile(np.zeros((8, 8), np.float32))
    return [
        bad_image("absent.jpg", None, "fetch", "not_found", "there is no such file"),
        bad_image("absent-source.jpg", None, "fetch", "not_found", "there is no such file", side="source"),
        bad_image("folder.jpg", None, "fetch", "unreadable", "not a file, but of type directory"),
        bad_image("pipe.jpg", None, "fetch", "unreadable", "not a file, but of type other"),
        bad_image("nul\0byte.jpg", None, "fetch", "bad_uri", "embedded null byte"),
        bad_image("cut.jpg", jpeg[: len(jpeg) // 2], "decode", "truncated", "OSError: image file is truncated"),
        bad_image("empty.jpg", b"", "decode", "empty_file", "the file has 0 bytes"),
        bad_image(
            "drawing.jpg",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "decode",
            "not_an_image",
            "not an image we read",
        ),
        bad_image("large.png", encoded(too_large), "decode", "too_large", "8192 x 6145 pixels, at most 50331648"),
        bad_image(
            "float.tif", floats, "decode", "unsupported_mode", "not an image we read: it is a TIFF of 32-bit float"
        ),
        bad_image("ghost.jpg", IMPOSTORS["eps"][0], "decode", "not_an_image", "not an image we read: it is PostScript"),
        Bad(
            "inline rubbish",
            {"source_uri": "photograph.png", "target_image": b"rubbish"},
            "decode",
            "not_an_image",
            "inline target image ",
        ),
        Bad(
            "no image",
            {"source_uri": "photograph.png"},
            "fetch",
            "no_image",
            "the row has neither target_uri nor target_image",
        ),
        Bad("empty uri", {"source_uri": "", "target_uri": "photograph.png"}, "fetch", "no_image", "neither source_uri"),
        bad_points(
            "not a number", "source_xy_px: points must be finite; point 1 is", source_xy_px=[[1, 2], [NAN, 3], [4, 5]]
        ),
        bad_points(
            "no number in the target", "target_xy_px: points must be finite", target_xy_px=[[1, 2], [3, NAN], [4, 5]]
        ),
        bad_points("null number", "source_xy_px: points must be finite", source_xy_px=[[1, 2], [None, 3]]),
        bad_points(
            "null point", "source_xy_px: points must be finite; point 1 is (nan, nan)", source_xy_px=[[1, 2], None]
        ),
        Bad(
            "too many points",
            {"source_uri": "photograph.png", "target_uri": "photograph.png", "source_xy_px": [[1, 2]] * 10_001},
            "manifest",
            "too_many_keypoints",
            "source_xy_px has 10001 points; at most 10000",
        ),
        bad_points("unequal", "source_xy_px has 1 points and target_xy_px 3", source_xy_px=[[1, 2]]),
    ]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder of three attempts, and their output."""

    root: Path
    pairs: str
    out: str
    good: list[Good]
    bad: list[Bad]
    attempts: list[Finished]
    results: list[pa.Table]

    def flags(self, matcher: str = MATCHER) -> list[str]:
        flags = {
            "--pairs": self.pairs,
            "--out": self.out,
            "--image-root": str(self.root),
            "--matcher": matcher,
            "--outputs": "keypoints,flow,confidence",
            "--direction": "both",
        }
        return [word for flag in flags.items() for word in flag]

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["pair_id"], row["direction"]): row for row in read_matches(self.out).to_pylist()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three attempts: --limit 3, then everything, then the same again on Ray."""
    folder = tmp_path_factory.mktemp("hostile")
    root = folder / "images"
    root.mkdir()
    good, bad = _good_rows(root), _bad_rows(root)
    rows = [
        pair_row(case.pair_id, **{"dataset": "hostile", "source_xy_px": POINTS, "target_xy_px": POINTS, **case.row})
        for case in [*good, *bad]
    ]
    pairs = write_pairs(folder / "pairs.parquet", rows)
    hostile = Run(root, pairs, str(folder / "run"), good, bad, attempts=[], results=[])
    for more in (["--limit", "3"], ["--slice-pairs", "8"], ["--address", "local"]):
        hostile.attempts.append(run_job("match", [*hostile.flags(), *more]))
        hostile.results.append(read_matches(hostile.out, RESULT_COLUMNS))
    return hostile


@pytest.fixture
def matcher() -> Iterator[Matcher]:
    """The run's matcher in this process, on one thread as in the workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_matcher(MATCHER, device="cpu")
    torch.set_num_threads(threads)


def test_every_bad_row_ends_as_its_documented_status(run: Run) -> None:
    rows = run.rows()
    for case in run.bad:
        for direction in BOTH:
            row = rows[case.pair_id, direction]
            assert (row["status"], row["error_stage"], row["error_kind"]) == ("error", case.stage, case.kind), row
            assert case.says in row["error_message"]
            assert "\n" not in row["error_message"]
            assert row["reference_xy_px"] is row["flow"] is None


def test_every_other_row_is_answered_as_if_it_were_alone(run: Run, matcher: Matcher) -> None:
    """Bitwise: pixels as an independent reader has them, matched one pair at a time."""
    rows = run.rows()
    assert len(rows) == 2 * (len(run.good) + len(run.bad))
    for case in run.good:
        sides = {"source": case.source_rgb, "target": case.target_rgb}
        for direction in BOTH:
            row = rows[case.pair_id, direction]
            assert row["status"] == "ok", row
            query, reference = ("source", "target") if direction == "source_to_target" else ("target", "source")
            assert (row["query_hw"], row["reference_hw"]) == tuple(
                list(sides[side].shape[:2]) for side in (query, reference)
            )
            points = case.row.get(f"{query}_xy_px", POINTS) or []
            alone = matcher.match(sides[query], sides[reference], points, dense=True)
            assert alone.flow_px is not None
            assert alone.flow_confidence is not None
            expected = {
                "query_xy_px": points,
                "reference_xy_px": alone.reference_xy_px.tolist(),
                "point_confidence": alone.point_confidence.tolist(),
                **encode_flow(alone.flow_px),
                "flow_confidence": encode_confidence(alone.flow_confidence),
            }
            assert {name: row[name] for name in expected} == expected, case.pair_id


def test_the_answers_are_right(run: Run) -> None:
    """The middle of what matches in a window: SIFT's descriptors change little in a cell, so 1.5 cells, not half."""
    rows = run.rows()
    for case in run.good:
        if case.finds_itself:
            for direction in BOTH:
                found = np.array(rows[case.pair_id, direction]["reference_xy_px"]).reshape(-1, 2)
                asked = np.array(rows[case.pair_id, direction]["query_xy_px"]).reshape(-1, 2)
                assert np.abs(found - asked).max(initial=0) <= 1.5 * CELL_PX, case.pair_id
    shifted = np.array(rows["good, shifted", "source_to_target"]["reference_xy_px"])
    assert np.abs(shifted - (np.array(POINTS) - [16, 8])).max() < 2 * CELL_PX
    assert np.abs(rows["one pixel", "source_to_target"]["reference_xy_px"]).max() <= 0.5


def test_exit_codes_and_what_was_said(run: Run) -> None:
    n_pairs, n_bad = len(run.good) + len(run.bad), len(run.bad)
    first, second, third = run.attempts
    assert [attempt.code for attempt in run.attempts] == [0, 3, 3], [attempt.stderr for attempt in run.attempts]
    assert "3 pairs: 0 done, 3 to do in 1 slices" in first.stdout
    assert f"{n_pairs} pairs: 3 done, {n_pairs - 3} to do in" in second.stdout
    assert f"{n_pairs} pairs: {n_pairs - n_bad} done, {n_bad} to do in 1 slices" in third.stdout
    assert f"{2:>8}  decode: truncated\n" in third.stdout
    for attempt in (second, third):
        assert f"error: {2 * n_bad} of {2 * n_pairs} rows are errors, more than the error budget" in attempt.stderr
        assert "Traceback" not in attempt.stderr


def test_a_larger_limit_goes_on_and_a_later_run_asks_the_errors_again(run: Run) -> None:
    limited, whole, again = run.results
    first_three = {case.pair_id for case in run.good[:3]}
    failed = {case.pair_id for case in run.bad}

    assert set(limited["pair_id"].to_pylist()) == first_three
    assert again.equals(whole)
    for (pair_id, _), row in run.rows().items():
        assert row["attempt"] == (1 if pair_id in first_three else 3 if pair_id in failed else 2), pair_id
    counts = [attempt.counts or {} for attempt in read_attempts(run.out)]
    n_good, n_failed = 2 * len(run.good), 2 * len(failed)
    assert [(sum(count.values()), count.get("ok", 0)) for count in counts] == [
        (6, 6),
        (n_good - 6 + n_failed, n_good - 6),
        (n_failed, 0),
    ]


def test_verify_and_success_count_every_row(run: Run) -> None:
    count = verify.run(verify.Config(out=run.out))

    assert (count.ok, count.error, count.missing) == (2 * len(run.good), 2 * len(run.bad), 0)
    success = json.loads(Path(run.out, "_SUCCESS").read_text())
    assert success["limit"] is None
    reasons = [f"{case.stage}: {case.kind}" for case in run.bad] + ["ok"] * len(run.good)
    assert success["reasons"] == {reason: 2 * n for reason, n in Counter(reasons).items()}


def test_another_matcher_is_refused_and_a_dry_run_writes_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(run.out).rglob("*")}
    fingerprint = json.loads(Path(run.out, "run.json").read_text())["fingerprint"]

    assert match.main(run.flags("nearest-neighbour:dense-sift?image_size=96")) == 2
    error = capsys.readouterr().err
    assert match.main([*run.flags(), "--dry-run"]) == 0

    assert re.search(rf"fingerprint is (?!{fingerprint})\w+, the folder's is {fingerprint} ", error), error
    assert f"{len(run.good)} done, {len(run.bad)} to do" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in Path(run.out).rglob("*")} == before


def test_the_table_and_the_report_are_whole(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, page = tmp_path / "metrics.parquet", tmp_path / "report.html"
    both = ["--matches", run.out, "--pairs", run.pairs]

    assert evaluate.main([*both, "--protocol", "pf-pascal", "--out", str(metrics)]) == 0
    printed = capsys.readouterr().out
    assert report.main([*both, "--metrics", str(metrics), "--image-root", str(run.root), "--out", str(page)]) == 0

    n_scored = len(run.good) + len(run.bad) - 2
    assert f"{n_scored} pairs, " in printed
    assert f"{len(run.bad)} pairs failed or missing (counted wrong)" in printed
    assert "2 pairs have no keypoints to score and are in no average" in printed
    table = pd.read_parquet(metrics)
    assert set(table["direction"]) == set(BOTH)
    assert table[["pck_image", "pck_point"]].notna().all(axis=None)
    text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", page.read_text())
    assert "there is no such file" in text
    assert not re.search(r"\b(nan|inf)\b", printed, re.IGNORECASE)
    assert not re.search(r">\s*-?(nan|inf)\b", text, re.IGNORECASE)
