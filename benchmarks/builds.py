"""This build beside an earlier commit, in turns: CPU time of a pair and an image, and memory, on one thread.

    make benchmark
    python -m benchmarks.builds --commit a17c857 --out benchmarks/results

The commit is checked out beside this one for as long as it takes, and both run in this environment, a process each, of
which one works at a time. CPU seconds are less true the busier the machine is; their ratio is what counts.
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

from benchmarks import harness
from jobs.command import run_command

_HERE = Path(__file__).resolve().parents[1]
_CHILD = Path(__file__).with_name("one_build.py")
_PAIRS = 16
"""Pairs of the same two images, beside one pair, from which a pair's time without that of its images is inferred."""

Times = dict[str, list[float]]
"""Of each operation, the CPU seconds of each repeat."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The builds to compare."""

    commit: str
    """Commit, tag or branch to compare with."""
    matcher: str = "nemf-small"
    """Name of the matcher, which both builds must have."""
    repeats: int = 5
    """Turns, whose median counts."""
    out: str | None = None
    """Folder for builds.md and builds.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One operation in both builds."""

    work: str
    before_ms: float
    now_ms: float
    ratio: float
    """How many times less CPU time it takes now: the median of the turns' ratios."""
    least: float
    most: float
    """The extremes of the turns' ratios."""


def run(config: Config) -> list[Row]:
    """Measure and print. Raises subprocess.CalledProcessError for a commit that git cannot check out."""
    with ExitStack() as stack:
        folder = stack.enter_context(_checked_out(config.commit))
        builds = [stack.enter_context(_Build.started(checkout, config.matcher)) for checkout in (folder, _HERE)]
        turns = [[build.turn() for build in builds] for _ in range(config.repeats)]
    before, now = ({work: [turn[i][work] for turn in turns] for work in turns[0][i]} for i in (0, 1))
    rows = compared(before, now)
    setup = {
        **harness.describe(),
        "threads": "1",
        "matcher": config.matcher,
        "before": config.commit,
    }
    memory = ", ".join(f"{name} {build.peak_mb:,.0f} MB" for name, build in zip(("before", "now"), builds, strict=True))
    lines = [*_table(rows), "", f"Peak memory of the process, libraries included: {memory}."]
    harness.write(config.out, "builds", setup, lines, [asdict(row) for row in rows])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def compared(before: Times, now: Times) -> list[Row]:
    """The rows of operations that were timed in turns in both builds."""
    rows = []
    for work in before:
        ratios = [earlier / later for earlier, later in zip(before[work], now[work], strict=True)]
        row = Row(
            work=work,
            before_ms=1000 * statistics.median(before[work]),
            now_ms=1000 * statistics.median(now[work]),
            ratio=statistics.median(ratios),
            least=min(ratios),
            most=max(ratios),
        )
        rows.append(row)
    return rows


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


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| 500 x 375 | before, CPU ms | now, CPU ms | times faster | of the turns |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        numbers = [harness.as_text(value) for value in (row.before_ms, row.now_ms)]
        lines.append(
            f"| {row.work} | {numbers[0]} | {numbers[1]} | {row.ratio:.2f} | {row.least:.2f} to {row.most:.2f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
