"""Time and memory of jobs.match over the manifest's size, with a matcher that does nothing.

    python -m benchmarks.scale --out benchmarks/results

For each size jobs.match runs as a process whose memory is sampled: over half of the manifest (--limit), over the
rest of it, and once more when all is done; then jobs.verify. Prints a Markdown table and writes it with the raw numbers
as JSON. Some ten minutes on two cores.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.memory_use import ResourceUse, run_and_measure
from benchmarks.synthetic_manifest import KEYPOINTS, write_manifest
from jobs.command import run_command
from pipeline.runs.folder import read_run
from pipeline.runs.parts import list_parts


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of the manifests, and the output folder."""

    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Sizes of the manifests, in pairs."""
    images: int = 1000
    """Number of images that the pairs share, 320 x 240 JPEG."""
    slice_pairs: int = 4096
    """Pairs matched and committed together."""
    out: str | None = None
    """Folder for scale.md and scale.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements for one manifest size."""

    rows: int
    first_half: ResourceUse
    second_half: ResourceUse
    nothing_left: ResourceUse
    verify: ResourceUse
    n_parts: int
    parts_mb: float


def run(config: Config) -> list[Measured]:
    """Measure every size, smallest first, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        measured = [_measure(Path(folder, str(rows)), rows, config) for rows in sorted(config.rows)]
    setup = {**harness.describe(), "matcher": f"identity, {KEYPOINTS} keypoints a pair, slices of {config.slice_pairs}"}
    harness.write(config.out, "scale", setup, _table(measured), [asdict(m) for m in measured])
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _measure(folder: Path, n_rows: int, config: Config) -> Measured:
    pairs, out = write_manifest(folder, n_rows, config.images), str(folder / "run")
    match = [sys.executable, "-m", "jobs.match", "--pairs", pairs, "--out", out, "--matcher", "identity"]
    match += ["--slice-pairs", str(config.slice_pairs)]
    first_half, second_half, nothing_left = (
        run_and_measure([*match, *limit]) for limit in (["--limit", str(n_rows // 2)], [], [])
    )
    success = read_run(out).success()
    if success is None or success["reasons"] != {"ok": n_rows}:
        raise RuntimeError(f"the run of {n_rows} rows did not finish: {' '.join(match)}")
    parts = [Path(part) for part in list_parts(out)]
    return Measured(
        rows=n_rows,
        first_half=first_half,
        second_half=second_half,
        nothing_left=nothing_left,
        verify=run_and_measure([sys.executable, "-m", "jobs.verify", out]),
        n_parts=len(parts),
        parts_mb=sum(part.stat().st_size for part in parts) / 1e6,
    )


def _table(measured: Sequence[Measured]) -> list[str]:
    lines = [
        "| rows | first half, s | second half, s | again, all done, s | verify, s | driver peak, MB | other processes "
        "peak, MB | parts | MB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {m.rows:,} | {m.first_half.seconds:.1f} | {m.second_half.seconds:.1f} | {m.nothing_left.seconds:.1f} | "
        f"{m.verify.seconds:.1f} | {m.second_half.driver_peak_mb:,.0f} | {m.second_half.workers_peak_mb:,.0f} | "
        f"{m.n_parts:,} | {m.parts_mb:,.1f} |"
        for m in measured
    ]
    if len(measured) > 1:
        first, last = measured[0], measured[-1]
        rate = (last.rows - first.rows) / (_both(last) - _both(first))
        lines += ["", f"Per further row, from {first.rows:,} to {last.rows:,} rows: {harness.as_text(rate)} rows/s."]
    return lines


def _both(measured: Measured) -> float:
    return measured.first_half.seconds + measured.second_half.seconds


if __name__ == "__main__":
    sys.exit(main())
