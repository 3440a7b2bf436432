"""`nemf match` beside what a user would write: the same pairs, matcher and weights, and what a kill half way leaves.

    python -m benchmarks.peers --pairs spair.parquet --rows 300 3104 --matcher nearest-neighbour:timm/mobilenetv1_100 \
        --backbone-weights mobilenetv1_100.safetensors --out benchmarks/results

The programs of benchmarks.peer_programs and `nemf match` run one after the other, each from its start to its end, on as
many cores: `plain` and `dataloader` with as many threads, `ray-data` with as many processes that match, and `nemf
match` as one types it: one process, and with more to do one on each of this machine's cores. With the most pairs each
is killed after half of the CPU seconds that it took, all its processes at once, and started again where it left
anything.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from benchmarks.memory_use import FamilyUse, watch
from benchmarks.peer_programs import PROGRAMS
from benchmarks.synthetic_manifest import write_manifest
from jobs.command import run_command
from pipeline.io.manifest import read_pairs
from schemas.pairs import PAIRS

OURS = "nemf match"
_MOVED_PX = 0.5


@dataclass(frozen=True, kw_only=True)
class Config:
    """The pairs, the matcher, and how often each program runs."""

    pairs: str | None = None
    """Manifest of pairs with keypoints and the paths of images; default: one of noise."""
    rows: tuple[int, ...] = (300, 3000)
    """Pairs to match, the first ones of the manifest; all where it has fewer."""
    matcher: str = "nemf-small"
    """Name of the matcher."""
    backbone_weights: str | None = None
    """Weights of the matcher's backbone, for matchers that take them."""
    workers: int = 2
    """Threads of a program of one process, or processes of ray-data that match; the number of this machine's cores."""
    slice_pairs: int = 128
    """Pairs that are matched and written together, where a program writes before its end."""
    images: int = 100
    """Images of a manifest of noise, 320 x 240."""
    repeats: int = 1
    """Runs of each program in turns, whose median counts."""
    out: str | None = None
    """Folder for peers.md and peers.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What a program that was killed half way had stored, and what it did when it was started again."""

    pairs_left: int = 0
    """Pairs whose answers can be read after the kill."""
    broken_files: int = 0
    """Files that cannot be read after it."""
    again_seconds: float | None = None
    """Of the second start; None where nothing was left."""
    rows_twice: int = 0
    """Rows of pairs that have another row, after the second start."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One program at one number of pairs."""

    program: str
    pairs: int
    seconds: float
    """From the start of the process to its end, the median of the repeats."""
    cpu_seconds: float
    """Of all its processes."""
    peak_mb: float
    """Peak memory of all its processes, shared pages counted once."""
    moved: float
    """Share of points more than half a pixel from the answers of the first program."""
    kill: Kill | None = None
    """None at fewer than the most pairs."""

    @property
    def pairs_per_second(self) -> float:
        """Pairs a second of the clock."""
        return self.pairs / self.seconds


def run(config: Config) -> list[Row]:
    """Measure and print. Raises RuntimeError for a program that fails or leaves pairs without an answer."""
    load = harness.CompetingLoad()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        pairs = config.pairs or write_manifest(folder, max(config.rows), config.images)
        manifest = read_pairs(pairs, PAIRS.names)
        sizes = sorted({min(n, manifest.num_rows) for n in config.rows})
        for n in sizes:
            some = folder / f"{n}.parquet"
            pq.write_table(manifest.slice(0, n), some)
            rows += _measure(config, folder, some, n, killed=n == sizes[-1])
    setup = {
        **harness.describe(),
        "matcher": config.matcher,
        "threads or processes that match": str(config.workers),
        "repeats": str(config.repeats),
        "busy, the programs included": f"{load.share():.0%}",
    }
    harness.write(config.out, "peers", setup, _table(rows), [asdict(row) for row in rows])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _measure(config: Config, folder: Path, pairs: Path, n_pairs: int, *, killed: bool) -> list[Row]:
    programs = [*PROGRAMS, OURS]
    uses: dict[str, list[FamilyUse]] = {program: [] for program in programs}
    answers: dict[str, dict[str, np.ndarray]] = {}
    for turn in range(config.repeats):
        for program in programs:
            out = folder / f"{n_pairs}-{program.replace(' ', '-')}-{turn}"
            use = watch(_command(config, program, pairs, out))
            assert use is not None
            uses[program].append(use)
            stored = _stored(out)
            answers[program] = dict(zip(stored.pair_ids, stored.answers_xy_px, strict=True))
            if len(stored.pair_ids) != n_pairs or len(answers[program]) != n_pairs:
                raise RuntimeError(f"{program} stored {len(stored.pair_ids)} rows of {n_pairs} pairs")
    rows = []
    for program, measured in uses.items():
        cpu_seconds = statistics.median(use.cpu_seconds for use in measured)
        row = Row(
            program=program,
            pairs=n_pairs,
            seconds=statistics.median(use.seconds for use in measured),
            cpu_seconds=cpu_seconds,
            peak_mb=max(use.peak_mb for use in measured),
            moved=moved(answers[programs[0]], answers[program]),
            kill=_kill(config, program, pairs, folder, cpu_seconds / 2) if killed else None,
        )
        rows.append(row)
    return rows


def _kill(config: Config, program: str, pairs: Path, folder: Path, after_cpu_seconds: float) -> Kill:
    out = folder / f"killed-{program.replace(' ', '-')}"
    command = _command(config, program, pairs, out)
    if watch(command, kill_when=lambda cpu_seconds: cpu_seconds > after_cpu_seconds):
        raise RuntimeError(f"{program} was done before it could be killed")
    left = _stored(out)
    if not left.pair_ids and not left.broken_files:  # a second start would be the first one again
        return Kill()
    again = watch(command)
    assert again is not None
    stored = _stored(out)
    return Kill(
        pairs_left=len(set(left.pair_ids)),
        broken_files=left.broken_files,
        again_seconds=again.seconds,
        rows_twice=len(stored.pair_ids) - len(set(stored.pair_ids)),
    )


def _command(config: Config, program: str, pairs: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.peer_programs", program, "--batch-pairs", str(config.slice_pairs)]
    if program == OURS:
        command = [sys.executable, "-m", "jobs.match", "--slice-pairs", str(config.slice_pairs), "--device", "cpu"]
    else:
        command += ["--workers", str(config.workers)]
    command += ["--pairs", str(pairs), "--out", str(out), "--matcher", config.matcher]
    if config.backbone_weights:
        command += ["--backbone-weights", config.backbone_weights]
    return command


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What a folder holds of answers."""

    pair_ids: list[str]
    """Of every row."""
    answers_xy_px: list[np.ndarray]
    broken_files: int


def _stored(out: Path) -> _Stored:
    tables, broken = [], 0
    for file in sorted(out.rglob("*.parquet")):
        try:
            tables.append(pq.read_table(file, columns=["pair_id", "reference_xy_px"]))
        except (pa.ArrowException, OSError):
            broken += 1
    rows = [row for table in tables for row in table.to_pylist()]
    return _Stored(
        pair_ids=[row["pair_id"] for row in rows],
        answers_xy_px=[np.array(row["reference_xy_px"], np.float64).reshape(-1, 2) for row in rows],
        broken_files=broken,
    )


def moved(first: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Share of the points of `first`, by pair, that are more than half a pixel elsewhere in `other`."""
    distances = [np.linalg.norm(first[name] - other[name], axis=1) for name in first]
    return float((np.concatenate(distances) > _MOVED_PX).mean()) if distances else 0.0


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| pairs | program | seconds | pairs a second | CPU seconds | peak memory, MB | points moved |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.pairs:,} | {row.program} | {row.seconds:.1f} | {harness.as_text(row.pairs_per_second)} | "
        f"{row.cpu_seconds:.1f} | {row.peak_mb:,.0f} | {row.moved:.2%} |"
        for row in rows
    ]
    lines += [
        "",
        "Killed after half of these CPU seconds, and started again:",
        "",
        "| pairs | program | pairs left | broken files | seconds of the second start | rows twice |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.pairs:,} | {row.program} | {row.kill.pairs_left:,} | {row.kill.broken_files} | "
        f"{row.seconds if row.kill.again_seconds is None else row.kill.again_seconds:.1f} | {row.kill.rows_twice:,} |"
        for row in rows
        if row.kill
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
