"""Run prepare, match, evaluate and report on real photographs with known answers.

    nemf demo --out demo

The photographs are part of scikit-image. Each is warped by known smooth transformations, so that the true position of
every keypoint is known. Needs no data, no download and no network; takes about a minute on two cores.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.command import MatcherName, run_command
from nemf.matchers.table import find_entry
from pipeline.io.uri_field import Uri

_TABLE = "demo_pairs.csv"  # also marks a folder as the demo's own


@dataclass(frozen=True, kw_only=True)
class Config:
    """Folder and number of the pairs, and the matcher."""

    out: Uri
    """Folder for everything the demo makes; what an earlier demo left there is removed."""
    matcher: MatcherName = "nemf-small"
    warps: int = 6
    """Warped copies of each photograph."""
    seed: int = 0
    """Seed of the random warps."""


def run(config: Config) -> str:
    """Make the pairs and run the four jobs on them; returns the report's path."""
    # these import scikit-image, scipy and pandas, which take a second
    from jobs import evaluate, match, prepare, report
    from jobs.demo_pairs import write_pairs

    find_entry(config.matcher)
    out = Path(config.out).resolve()
    _make_room(out)
    table = out / _TABLE
    write_pairs(table, config.warps, config.seed)
    pairs, run_folder, metrics, page = (
        str(out / name) for name in ("pairs.parquet", "run", "metrics.parquet", "report.html")
    )
    prepare.run(prepare.make_config("table", root=str(out), annotations=str(table), out=pairs))
    match.run(match.Config(pairs=pairs, out=run_folder, matcher=config.matcher, slice_pairs=10))
    evaluate.run(evaluate.Config(matches=run_folder, pairs=pairs, protocol=("pf-willow-bbox-kp",), out=metrics))
    report.run(report.Config(metrics=metrics, matches=run_folder, pairs=pairs, out=page))
    print(f"\nthe report: {page}")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _make_room(out: Path) -> None:
    """Empty the folder `out`. Raises ValueError if it holds files and was not made by the demo."""
    if out.exists() and any(out.iterdir()) and not (out / _TABLE).exists():
        raise ValueError(f"{out} is not empty and was not made by the demo: give another --out")
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    (out / _TABLE).touch()


if __name__ == "__main__":
    sys.exit(main())
