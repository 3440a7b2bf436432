"""The overhead of the pipeline: jobs.match compared with the same matcher in a bare loop over the same pairs.

    python -m benchmarks.overhead --out benchmarks/results
    python -m benchmarks.overhead --matcher nemf-small --rows 200 1000 --out benchmarks/results/nemf-small

Runs jobs.match as a process, with one worker, and watches its memory; and does the same work in a bare loop in this
process, on one thread: read rows, decode each image of a slice once, answer, write one Parquet file. Start-up is the
same whatever the number of rows, so what counts is the cost of each further row, from the smallest manifest to the
largest. Prints a Markdown table and writes it with the raw numbers as JSON. Minutes on two cores.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import harness
from benchmarks.memory_use import ResourceUse, run_and_measure
from benchmarks.synthetic_manifest import KEYPOINTS, write_manifest
from jobs.command import run_command
from nemf import load_matcher
from pipeline.io.manifest import read_pairs
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import THREADS, MatchOptions
from pipeline.runs.folder import read_run
from schemas.pairs import PAIRS


@dataclass(frozen=True, kw_only=True)
class Config:
    """The matcher, the sizes of the manifests, and the output folder."""

    matcher: str = "identity"
    """Name of the matcher; identity does nothing, so that only the pipeline is measured."""
    rows: tuple[int, ...] = (10_000, 100_000)
    """Sizes of the manifests, in pairs."""
    images: int = 200
    """Number of images that the pairs share, 320 x 240 JPEG."""
    slice_pairs: int = 4096
    """Pairs matched and committed together."""
    out: str | None = None
    """Folder for overhead.md and overhead.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Measured(ResourceUse):
    """The measurements for one manifest size."""

    rows: int
    bare_seconds: float


def run(config: Config) -> list[Measured]:
    """Measure every size, smallest first, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        measured = [_measure(Path(folder), rows, config) for rows in sorted(config.rows)]
    setup = {**harness.describe(), "matcher": f"{config.matcher}, {KEYPOINTS} keypoints a pair"}
    harness.write(config.out, "overhead", setup, _table(measured), [asdict(m) for m in measured])
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _measure(folder: Path, n_rows: int, config: Config) -> Measured:
    pairs = write_manifest(folder / str(n_rows), n_rows, config.images)
    bare_seconds = _bare_loop(pairs, folder / "bare.parquet", config)
    out = folder / str(n_rows) / "run"
    command = [sys.executable, "-m", "jobs.match", "--pairs", pairs, "--out", str(out), "--matcher", config.matcher]
    taken = run_and_measure([*command, "--slice-pairs", str(config.slice_pairs), "--workers", "1", "--device", "cpu"])
    success = read_run(str(out)).success()
    if success is None or success["reasons"] != {"ok": n_rows}:
        raise RuntimeError(f"the run of {n_rows} rows did not finish: {' '.join(command)}")
    return Measured(rows=n_rows, bare_seconds=bare_seconds, **asdict(taken))


def _bare_loop(pairs: str, out: Path, config: Config) -> float:
    """Seconds for the same rows in one process without Ray, commits or resumption."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    matcher, options = load_matcher(config.matcher, device="cpu"), MatchOptions()
    start = time.perf_counter()
    rows = read_pairs(pairs, PAIRS.names)
    tables = [
        match_chunk(matcher, chunk, options, fingerprint="bare", attempt=1)
        for first in range(0, rows.num_rows, config.slice_pairs)
        for chunk in decode_rows(rows.slice(first, config.slice_pairs), None)
    ]
    pq.write_table(pa.concat_tables(tables), out, compression="zstd")
    taken = time.perf_counter() - start
    torch.set_num_threads(threads)
    return taken


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
            f"Per further row, between {first.rows:,} and {last.rows:,}: bare loop {harness.as_text(bare)} rows/s, "
            f"jobs.match {harness.as_text(ours)} rows/s, {ours / bare:.2f} times the bare loop.",
        ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
