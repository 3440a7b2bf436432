"""This build beside an earlier commit, in turns: CPU time of a pair and an image, memory, and whole `nemf match` runs.

    make benchmark
    python -m benchmarks.builds --commit a17c857 --out benchmarks/results

The commit is checked out beside this one for as long as it takes, and both run in this environment, one at a time. A
pair and an image are timed in a process of one thread each; `nemf match` from the command to its end, by its defaults.
CPU seconds are less true the busier the machine is, and those of the clock mean nothing then; their ratio counts.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.memory_use import watch
from jobs.command import run_command
from jobs.demo_pairs import PHOTOGRAPHS, write_pairs

_HERE = Path(__file__).resolve().parents[1]
_CHILD = Path(__file__).with_name("one_build.py")
_PAIRS = 16
"""Pairs of the same two images, beside one pair, from which a pair's time without that of its images is inferred."""

Times = dict[str, list[float]]
"""Of each operation, what each turn measured."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The builds to compare."""

    commit: str
    """Commit, tag or branch to compare with."""
    matcher: str = "nemf-small"
    """Name of the matcher, which both builds must have."""
    matcher_now: str | None = None
    """Name of this build's matcher; default: the same, `matcher`."""
    repeats: int = 5
    """Turns, whose median counts."""
    rows: tuple[int, ...] = (30, 300)
    """Pairs of each of the whole runs."""
    table: str | None = None
    """Pairs of the whole runs, a table as `nemf prepare --dataset table` reads it; default: photographs and warped
    copies of them, as `nemf demo` has them."""
    root: str | None = None
    """Folder of the table's images."""
    job_repeats: int = 3
    """Turns of the whole runs."""
    out: str | None = None
    """Folder for builds.md and builds.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One operation in both builds."""

    work: str
    before: float
    """CPU milliseconds; seconds or MB as `work` says for whole runs."""
    now: float
    ratio: float
    """How many times less it takes now: the median of the turns' ratios."""
    least: float
    most: float
    """The extremes of the turns' ratios."""


def run(config: Config) -> list[Row]:
    """Measure and print. Raises subprocess.CalledProcessError for a commit that git cannot check out."""
    with ExitStack() as stack:
        folder = stack.enter_context(_checked_out(config.commit))
        both = ((folder, config.matcher), (_HERE, config.matcher_now or config.matcher))
        builds = [stack.enter_context(_Build.started(*build)) for build in both]
        turns = [[build.turn() for build in builds] for _ in range(config.repeats)]
        rows = compared(*_by_work(turns), scale=1000)
        jobs = _whole_runs(config, both)
    setup = {
        **harness.describe(),
        "threads": "1",
        "matcher": config.matcher,
        **({"matcher now": config.matcher_now} if config.matcher_now else {}),
        "before": config.commit,
    }
    memory = ", ".join(f"{name} {build.peak_mb:,.0f} MB" for name, build in zip(("before", "now"), builds, strict=True))
    lines = [
        *_table("500 x 375", "CPU ms", rows),
        *("", f"Peak memory of the process, libraries included: {memory}.", ""),
        *_table("`nemf match`, from the command to its end", "", jobs),
    ]
    harness.write(config.out, "builds", setup, lines, [asdict(row) for row in [*rows, *jobs]])
    return [*rows, *jobs]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def compared(before: Times, now: Times, scale: float = 1.0) -> list[Row]:
    """The rows of operations that were measured in turns in both builds, in units `scale` times smaller."""
    rows = []
    for work in before:
        ratios = [earlier / later for earlier, later in zip(before[work], now[work], strict=True)]
        row = Row(
            work=work,
            before=scale * statistics.median(before[work]),
            now=scale * statistics.median(now[work]),
            ratio=statistics.median(ratios),
            least=min(ratios),
            most=max(ratios),
        )
        rows.append(row)
    return rows


def _by_work(turns: Sequence[Sequence[dict[str, float]]]) -> tuple[Times, Times]:
    """Of each operation what the turns of either build measured."""
    before, now = ({work: [turn[i][work] for turn in turns] for work in turns[0][i]} for i in (0, 1))
    return before, now


def _whole_runs(config: Config, builds: Sequence[tuple[Path, str]]) -> list[Row]:
    """`nemf match` of both builds in turns."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        table, root = Path(config.table or folder / "pairs.csv"), Path(config.root or folder)
        if not config.table:
            (folder / "images").mkdir()
            write_pairs(table, -(-max(config.rows) // len(PHOTOGRAPHS)), seed=0)

        def measured(build: tuple[Path, str], n: int) -> dict[str, float]:
            checkout, matcher = build
            here = Path(tempfile.mkdtemp(dir=folder))
            # also its working folder, which Ray's workers search for modules
            in_build: Any = {"environment": os.environ | {"PYTHONPATH": str(checkout)}, "folder": checkout}
            python, pairs = [sys.executable, "-P", "-m"], str(here / "pairs.parquet")
            prepare = ["jobs.prepare", "--dataset", "table", "--root", str(root.resolve())]
            prepare += ["--annotations", str(table.resolve())]
            watch([*python, *prepare, "--out", pairs], **in_build)  # each build has its own manifests
            match = ["jobs.match", "--matcher", matcher, "--device", "cpu", "--limit", str(n), "--pairs", pairs]
            use = watch([*python, *match, "--out", str(here / "run")], **in_build)
            assert use is not None
            return {
                f"{n:,} pairs, s": use.seconds,
                f"{n:,} pairs, CPU s": use.cpu_seconds,
                f"{n:,} pairs, peak memory of all processes, MB": use.peak_mb,
            }

        return [
            row
            for n in config.rows
            for row in compared(
                *_by_work([[measured(build, n) for build in builds] for _ in range(config.job_repeats)])
            )
        ]


class _Build:
    """A process that times the matcher of a checkout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.peak_mb = 0.0
        self._process = process
        self._answer()

    @staticmethod
    @contextmanager
    def started(checkout: Path, matcher: str) -> "Iterator[_Build]":
        """The build in that folder, until the block ends."""
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        # -P: the folder of the script is not searched for modules
        command = [sys.executable, "-P", str(_CHILD), matcher]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            yield _Build(process)
            process.communicate()

    def turn(self) -> dict[str, float]:
        """CPU seconds of each operation."""
        one, many, dense = (self._time(work) for work in ("keypoints 1", f"keypoints {1 + _PAIRS}", "dense 1"))
        pair = (many - one) / _PAIRS
        return {
            "pair of known images, 10 keypoints": pair,
            "an image's features": (one - pair) / 2,
            "dense flow, images included": dense,
        }

    def _time(self, work: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{work}\n")
        self._process.stdin.flush()
        seconds, self.peak_mb = map(float, self._answer().split())
        return seconds

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise RuntimeError("a build ended before it was timed; what it printed says why")


@contextmanager
def _checked_out(commit: str) -> Iterator[Path]:
    """The commit in a folder of its own, until the block ends."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "before"
        git = ["git", "-C", str(_HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def _table(what: str, unit: str, rows: Sequence[Row]) -> list[str]:
    before, now = (f"{build}, {unit}" if unit else build for build in ("before", "now"))
    lines = [f"| {what} | {before} | {now} | times less | of the turns |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        numbers = [harness.as_text(value) for value in (row.before, row.now)]
        lines.append(
            f"| {row.work} | {numbers[0]} | {numbers[1]} | {row.ratio:.2f} | {row.least:.2f} to {row.most:.2f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
