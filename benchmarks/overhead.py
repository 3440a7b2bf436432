"""What the pipeline itself costs: a matcher that does nothing, over manifests of two sizes.

    python -m benchmarks.overhead --out benchmarks/results

Runs jobs.match as a process with the identity matcher and watches its memory, and does the same work in a bare loop
in this process: read rows, decode each image once, answer, write one Parquet file. Prints a Markdown table and writes
it with the raw numbers as JSON. Minutes on two cores.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import machine
from benchmarks.watched import Watched, watched
from jobs.command import run_command
from nemf import load_matcher
from pipeline.decode import decode_rows
from pipeline.manifest import read_pairs
from pipeline.match import match_chunk
from pipeline.options import MatchOptions
from pipeline.run_folder import read_success
from schemas.pairs import PAIRS

_SLICE_PAIRS = 4096
_KEYPOINTS = 8


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which sizes, and where the table goes."""

    rows: tuple[int, ...] = (10_000, 100_000)
    """Manifest sizes."""
    images: int = 200
    """Images the pairs are over, 320 x 240 JPEG."""
    out: str | None = None
    """Folder for overhead.md and overhead.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Measured(Watched):
    """One size of manifest."""

    rows: int
    bare_seconds: float


def run(config: Config) -> list[Measured]:
    """Measure every size, smallest first, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        measured = [_measure(Path(folder), rows, config.images) for rows in sorted(config.rows)]
    about = {**machine.describe(), "matcher": f"identity, {_KEYPOINTS} keypoints a pair"}
    machine.write(config.out, "overhead", about, _table(measured), [asdict(m) for m in measured])
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _measure(folder: Path, n_rows: int, n_images: int) -> Measured:
    pairs = _write_manifest(folder / str(n_rows), n_rows, n_images)
    bare_seconds = _bare_loop(pairs, folder / "bare.parquet")
    out = folder / str(n_rows) / "run"
    command = [sys.executable, "-m", "jobs.match", "--pairs", pairs, "--out", str(out), "--matcher", "identity"]
    taken = watched([*command, "--slice-pairs", str(_SLICE_PAIRS)])
    success = read_success(str(out))
    if success is None or success["reasons"] != {"ok": n_rows}:
        raise RuntimeError(f"the run of {n_rows} rows did not finish: {' '.join(command)}")
    return Measured(
        rows=n_rows,
        bare_seconds=bare_seconds,
        **asdict(taken),
    )


def _write_manifest(folder: Path, n_rows: int, n_images: int) -> str:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(n_images):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / "images" / f"{index}.jpg")
    file = folder / "pairs.parquet"
    with pq.ParquetWriter(file, PAIRS) as writer:
        for start in range(0, n_rows, 4096):
            rows = range(start, min(start + 4096, n_rows))
            points = rng.uniform(0, 240, (len(rows), _KEYPOINTS, 2)).tolist()
            table = {
                "pair_id": [f"{row:09d}" for row in rows],
                "source_uri": [str(folder / "images" / f"{row // n_images % n_images}.jpg") for row in rows],
                "target_uri": [str(folder / "images" / f"{row % n_images}.jpg") for row in rows],
                "source_xy_px": points,
                "target_xy_px": points,
            }
            writer.write_table(
                pa.Table.from_pylist(
                    [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)], PAIRS
                )
            )
    return str(file)


def _bare_loop(pairs: str, out: Path) -> float:
    """Seconds for the same rows in one process without Ray, commits or resumption."""
    matcher, options = load_matcher("identity"), MatchOptions()
    start = time.perf_counter()
    rows = read_pairs(pairs, PAIRS.names)
    tables = [
        match_chunk(matcher, chunk, options, fingerprint="bare", attempt=1)
        for first in range(0, rows.num_rows, _SLICE_PAIRS)
        for chunk in decode_rows(rows.slice(first, _SLICE_PAIRS), None)
    ]
    pq.write_table(pa.concat_tables(tables), out, compression="zstd")
    return time.perf_counter() - start


def _table(measured: Sequence[Measured]) -> list[str]:
    lines = [
        "| rows | bare loop, s | jobs.match, s | driver peak, MB | other processes peak, MB |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {m.rows:,} | {m.bare_seconds:.1f} | {m.seconds:.1f} | {m.driver_peak_mb:,.0f} | {m.workers_peak_mb:,.0f} |"
        for m in measured
    ]
    if len(measured) > 1:
        first, last = measured[0], measured[-1]
        bare = (last.rows - first.rows) / (last.bare_seconds - first.bare_seconds)
        ours = (last.rows - first.rows) / (last.seconds - first.seconds)
        lines += [
            "",
            f"Per further row, between {first.rows:,} and {last.rows:,}: bare loop {bare:,.0f} rows/s, "
            f"jobs.match {ours:,.0f} rows/s, {ours / bare:.2f} times the bare loop.",
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
