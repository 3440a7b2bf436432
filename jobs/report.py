"""Write one self-contained HTML page about a run: PCK, plots, failures, time, drawn pairs.

    nemf report --metrics metrics.parquet --matches runs/x --pairs pairs.parquet --out report.html

Needs the files of `nemf match` and `nemf evaluate`, and the images of the few pairs it draws. The page loads nothing
from anywhere else and runs no script; it takes seconds for thousands of pairs and has about 60 kB per drawn pair, 15 kB
more where the run has flow. It draws at most 18 categories and lists at most 200 in a table, and names what it left
out.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.command import run_command
from pipeline.io.storage import refuse_overwrite, write_bytes
from pipeline.io.uri_field import Uri
from pipeline.runs.folder import refuse_files_of_runs


@dataclass(frozen=True, kw_only=True)
class Config:
    metrics: Uri
    """METRICS Parquet file of `nemf evaluate`."""
    matches: Uri
    """Run folder of `nemf match`, or one MATCHES Parquet file."""
    pairs: Uri
    """The PAIRS manifest that was matched."""
    out: Uri
    """HTML file to write."""
    calibration: Uri | None = None
    """File of `nemf calibrate` for this matcher: whether its probabilities hold on these pairs is shown beside whether
    the confidences do."""
    image_root: Uri | None = None
    """Folder, path or URI, of the manifest's relative image URIs."""
    pairs_per_category: int = 2
    """Number of best, of worst and of random pairs to draw of each category; 0 draws none."""


def run(config: Config) -> str:
    """Write the page; returns its path."""
    # it imports torch and scipy, which take more than a second
    from pipeline.report.page import render_report

    if config.pairs_per_category < 0:
        raise ValueError(f"--pairs-per-category must be 0 or more; got {config.pairs_per_category}")
    inputs = [config.metrics, config.matches, config.pairs]
    refuse_overwrite(config.out, *inputs, *([config.calibration] if config.calibration else []))
    refuse_files_of_runs(config.out, config.matches)
    page = render_report(
        config.metrics,
        config.matches,
        config.pairs,
        calibration_uri=config.calibration,
        image_root=config.image_root,
        pairs_per_category=config.pairs_per_category,
    )
    write_bytes(config.out, page.encode())
    print(f"wrote {config.out}")
    return config.out


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
