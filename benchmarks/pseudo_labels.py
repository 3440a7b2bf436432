"""Time and memory of nemf pseudo-label over the size of the run.

    python -m benchmarks.pseudo_labels --out benchmarks/results

For each size a run is made up, its points right with the probability that is their confidence, and labelled twice, by a
process whose memory is sampled: killed once in the midst of it and started again, and in one go. Checks that both
manifests are the same, and that they hold each label that should be there once. Prints a Markdown table and writes it
with the raw numbers as JSON.
"""

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import harness
from jobs.command import run_command
from pipeline.io.manifest import Manifest
from pipeline.pseudo_labels.calibration import FORMAT, VERSION
from pipeline.pseudo_labels.scored_parts import lists, points_array
from pipeline.runs.folder import open_run
from pipeline.runs.parts import write_part
from schemas.matches import MATCHES
from schemas.pairs import PAIRS

PRECISION = 0.9


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of the runs, and the output folder."""

    pairs: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    points: int = 16
    """Points of each pair."""
    part_pairs: int = 128
    """Pairs of a part, as nemf match --slice-pairs writes them."""
    out: str | None = None
    """Folder for pseudo_labels.md and pseudo_labels.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements for one size; seconds are of processor time, of all threads, and of the clock."""

    pairs: int
    cpu_seconds: float
    seconds: float
    peak_mb: float
    resumed_seconds: float
    """By the clock, of the second start alone."""
    scored_before_kill: int
    """Parts that were judged when the first start was killed."""
    n_parts: int
    n_labels: int
    n_lost_or_twice: int


def run(config: Config) -> list[Measured]:
    """Measure every size, smallest first, and print the table."""
    measured = []
    for n_pairs in sorted(config.pairs):
        with tempfile.TemporaryDirectory() as folder:
            measured.append(_measure(Path(folder), n_pairs, config))
            print(measured[-1], file=sys.stderr, flush=True)
    setup = {**harness.describe(), "labels": f"{config.points} points a pair, parts of {config.part_pairs} pairs"}
    harness.write(config.out, "pseudo_labels", setup, _table(measured, config), [asdict(m) for m in measured])
    return measured


def make_run(folder: Path, n_pairs: int, n_points: int, part_pairs: int) -> tuple[str, str, str]:
    """(manifest, run folder, calibration) of made-up points; the probability is the confidence."""
    rng = np.random.default_rng(0)
    manifest, run_folder = folder / "pairs.parquet", str(folder / "run")
    with pq.ParquetWriter(manifest, PAIRS) as writer:
        for first in range(0, n_pairs, 4096):
            n_rows = min(4096, n_pairs - first)
            columns = {
                "pair_id": [f"{row:09d}" for row in range(first, first + n_rows)],
                "source_uri": [f"images/{row // 100}.jpg" for row in range(first, first + n_rows)],
                "target_uri": [f"images/{row % 997}.jpg" for row in range(first, first + n_rows)],
                "source_box_xyxy": [[0, 0, 300, 200]] * n_rows,
                "target_box_xyxy": [[0, 0, 300, 200]] * n_rows,
            }
            arrays = {name: pa.array(values, PAIRS.field(name).type) for name, values in columns.items()}
            every = [arrays.get(field.name, pa.nulls(n_rows, field.type)) for field in PAIRS]
            writer.write_table(pa.table(every, schema=PAIRS))
    with Manifest(str(manifest)) as opened:
        ids, digest = opened.ids(), opened.digest()
    config: dict[str, Any] = {
        "pairs": str(manifest),
        "matcher": "made-up",
        "direction": "source_to_target",
        "limit": None,
    }
    config |= {"outputs": ["keypoints", "confidence", "cycle"], "backbone_weights": None}
    described = {"fingerprint": "f", "manifest_digest": digest, "image_root": None, "config": config, "versions": {}}
    run = open_run(run_folder, {**described, "matcher_fingerprint": "own"})
    for first in range(0, n_pairs, part_pairs):
        of_part = ids.slice(first, part_pairs)
        write_part(run.out, _rows(of_part, n_points, rng))
    run.finish(run.count(ids, None))
    knots = np.arange(1, 1000) / 1000
    odds = np.log(knots / (1 - knots))
    ranks = ((odds / odds[-1] + 1) / 2).clip(0, 1)
    share = {"values": knots.tolist(), "ranks": ranks.tolist(), "weights": [2 * odds[-1], 0, 0, 0, 0], "missing": 0}
    none = {"values": [0, 1], "ranks": [0, 1], "weights": [0] * 5, "missing": 0}
    calibration = {
        **{"format": FORMAT, "version": VERSION, "matcher": "made-up", "matcher_fingerprint": "own"},
        **{"protocol": "spair", "alpha": 0.1, "made_on": {}, "quality": {}},
        "signals": {"confidence": share, "cycle": none, "neighbours": none, "pair": none},
        "intercept": -odds[-1],
    }
    (folder / "calibration.json").write_text(json.dumps(calibration))
    return str(manifest), run_folder, str(folder / "calibration.json")


def _rows(ids: pa.ChunkedArray, n_points: int, rng: np.random.Generator) -> pa.Table:
    n_rows = len(ids)
    offsets = np.arange(0, n_rows * n_points + 1, n_points)
    sizes = lists(np.arange(0, 2 * n_rows + 1, 2), pa.array([240, 320] * n_rows, pa.int32()))
    columns = {
        "pair_id": ids,
        **{name: pa.array([value] * n_rows) for name, value in _SAME.items()},
        "attempt": pa.array([1] * n_rows, pa.int32()),
        "query_hw": sizes,
        "reference_hw": sizes,
        **{name: lists(offsets, points_array(rng.uniform(0, 240, (n_rows * n_points, 2)))) for name in _POINTS},
        # at the knots of the calibration, where the probability is the confidence exactly
        **{
            name: lists(offsets, pa.array(rng.integers(1, 1000, n_rows * n_points) / 1000, pa.float32()))
            for name in _NUMBERS
        },
    }
    every = [columns.get(field.name, pa.nulls(n_rows, field.type)) for field in MATCHES]
    return pa.table(every, schema=MATCHES)


_SAME = {"direction": "source_to_target", "status": "ok", "matcher": "made-up", "fingerprint": "f"}
_POINTS = ("query_xy_px", "reference_xy_px")
_NUMBERS = ("point_confidence", "point_cycle_error_px")


def _measure(folder: Path, n_pairs: int, config: Config) -> Measured:
    manifest, run_folder, calibration = make_run(folder, n_pairs, config.points, config.part_pairs)
    command = [sys.executable, "-m", "jobs.pseudo_label", "--pairs", manifest, "--matches", run_folder]
    command += ["--calibration", calibration, "--precision", str(PRECISION), "--out"]
    n_parts = -(-n_pairs // config.part_pairs)
    killed, whole = folder / "killed.parquet", folder / "whole.parquet"
    work = folder / "killed.parquet.work"
    process = psutil.Popen([*command, str(killed)], stdout=subprocess.DEVNULL)
    while process.poll() is None and (not work.exists() or len(list(work.glob("scored-*"))) < n_parts // 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    scored = len(list(work.glob("scored-*")))
    resumed = _run([*command, str(killed)])
    in_one_go = _run([*command, str(whole)])
    return Measured(
        pairs=n_pairs,
        cpu_seconds=in_one_go[1],
        seconds=in_one_go[0],
        peak_mb=in_one_go[2],
        resumed_seconds=resumed[0],
        scored_before_kill=scored,
        n_parts=n_parts,
        n_labels=sum(_labels_of(whole).values()),
        n_lost_or_twice=_differences(killed, whole, run_folder),
    )


def _run(command: Sequence[str]) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of processor time, and peak resident MB of a command."""
    start, peak, used = time.perf_counter(), 0, 0.0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak, times = max(peak, process.memory_info().rss), process.cpu_times()
            used = times.user + times.system
        except psutil.Error:
            break
        time.sleep(0.1)
    if process.wait():
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - start, used, peak / 1e6


def _labels_of(labels: Path) -> dict[str, int]:
    """The number of labels of each pair of a manifest. Raises ValueError for a pair that is there twice."""
    rows = pq.read_table(labels, columns=["pair_id", "keypoint_probability"])
    names = rows["pair_id"].to_pylist()
    counts = dict(zip(names, pc.list_value_length(rows["keypoint_probability"]).to_pylist(), strict=True))
    if len(counts) < len(names):
        raise ValueError(f"{labels} holds a pair twice")
    return counts


def _differences(killed: Path, whole: Path, run_folder: str) -> int:
    """The number of pairs whose labels are not as many as their points above the threshold; all if the two differ."""
    first, second = (hashlib.sha256(file.read_bytes()).hexdigest() for file in (killed, whole))
    labels = _labels_of(whole)
    if first != second:
        return len(labels)
    text = pq.read_schema(whole).metadata[b"pseudo_labels"]
    threshold = json.loads(text)["threshold"]
    expected: dict[str, int] = {}
    for file in sorted(Path(run_folder, "parts").iterdir()):
        rows = pq.read_table(file, columns=["pair_id", "point_confidence"])
        confidence = pc.list_flatten(rows["point_confidence"]).to_numpy().astype(np.float64)
        kept = (np.rint(confidence * 10_000) / 10_000 >= threshold).reshape(rows.num_rows, -1).sum(axis=1)
        expected |= {name: n for name, n in zip(rows["pair_id"].to_pylist(), kept.tolist(), strict=True) if n}
    return sum(expected.get(name) != labels.get(name) for name in expected.keys() | labels.keys())


def _table(measured: Sequence[Measured], config: Config) -> list[str]:
    head = "| pairs | labels | clock s | CPU s | pairs / CPU s | peak MB | killed at | resumed s | lost or twice |"
    return [
        head,
        "|---:|" + "---:|" * 8,
        *(
            f"| {m.pairs:,} | {m.n_labels:,} | {m.seconds:.1f} | {m.cpu_seconds:.1f} | "
            f"{m.pairs / m.cpu_seconds:,.0f} | {m.peak_mb:.0f} | {m.scored_before_kill} of {m.n_parts} parts | "
            f"{m.resumed_seconds:.1f} | {m.n_lost_or_twice} |"
            for m in measured
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
