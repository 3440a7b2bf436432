"""Score matches against keypoints: PCK under named protocols, per category and overall.

    nemf evaluate --matches runs/x --pairs pairs.parquet --protocol spair nemf --out metrics.parquet
    nemf evaluate ... --compare runs/y
    nemf evaluate ... --format json --require "spair image .1 all >= 50"

Predictions are stored once, so any number of protocols is computed from them without running a model: seconds for
thousands of pairs, no GPU. The result is METRICS: one Parquet file, or a folder of that name for a million pairs or
more, which are scored on Ray. Intervals are 95 %, by a bootstrap over images.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import pyarrow as pa
import tyro

from jobs.command import Names, RequirementError, Uris, run_command
from pipeline.evaluation import text_tables
from pipeline.evaluation.bootstrap import REPLICATES
from pipeline.evaluation.compare import compare
from pipeline.evaluation.evaluate import (
    DEFAULT_ALPHAS,
    LARGE,
    Unscored,
    count_unscored,
    evaluate,
    match_columns,
)
from pipeline.evaluation.keypoint_errors import Failed
from pipeline.evaluation.metrics import write_metrics
from pipeline.evaluation.protocols import PROTOCOLS, Protocol, protocol
from pipeline.evaluation.quality_gate import PCKThreshold, parse_threshold
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.io.uri_field import Uri
from pipeline.runs.folder import refuse_files_of_runs
from pipeline.runs.parts import read_matches
from pipeline.runs.selection import (
    is_other_manifest,
    planned_count,
    planned_limit,
    planned_pairs,
    refuse_other_points,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    matches: Uri
    """Run folder of `nemf match`, or one MATCHES Parquet file."""
    pairs: Uri
    """The PAIRS manifest that was matched."""
    protocol: Annotated[
        Names,
        tyro.conf.arg(help=f"Protocols to score: {', '.join(PROTOCOLS)}; or package.module:NAME for your own."),
    ]
    out: Uri
    """METRICS Parquet file to write; for a million pairs or more a folder of them, which must hold nothing else."""
    alpha: tuple[float, ...] = DEFAULT_ALPHAS
    """Thresholds above 0 and at most 1, each a share of the protocol's T, the size that a point's error is compared
    with, such as the longer side of the object's box."""
    failed: Failed = "wrong"
    """Pairs that failed or are missing: count their keypoints as wrong, or exclude them from the averages."""
    compare: Uris = ()
    """Other runs over the same manifest; prints the difference in PCK to each, with its interval, on the pairs that
    both runs cover."""
    require: tuple[str, ...] = ()
    """Minimum values, such as "spair image .1 all >= 50" (protocol, average over image, point or class, alpha, all or a
    category); the exit code is 4 if a value is below its minimum."""
    format: text_tables.Format = "text"
    """Format of the printed tables; csv and json print one tidy table and nothing else: METRICS without single pairs,
    or with --compare the differences."""
    replicates: int = REPLICATES
    """Bootstrap replicates that the intervals come from; 0 for no intervals."""
    seed: int = 0
    """Seed of the bootstrap, 0 to 2^32 - 1."""
    address: str | None = None
    """Ray cluster for a million pairs or more; default: RAY_ADDRESS, else an embedded one on this machine."""


def run(config: Config) -> str:
    """Evaluate, write METRICS, print tables and check the thresholds; returns the path of the METRICS.

    Raises ValueError and OSError for bad input, RequirementError where a threshold is missed.
    """
    storage.refuse_overwrite(config.out, config.matches, config.pairs)
    refuse_files_of_runs(config.out, config.matches)
    if config.replicates < 0:
        raise ValueError(f"--replicates must be 0 or more; got {config.replicates}")
    protocols = [protocol(name) for name in config.protocol]
    thresholds = [parse_threshold(text) for text in config.require]
    for threshold in thresholds:
        threshold.check_evaluated([protocol.name for protocol in protocols], config.alpha)
    if any(protocol.of == "keypoints" for protocol in protocols):
        for run_folder in (config.matches, *config.compare):
            refuse_other_points(run_folder)
    with Manifest(config.pairs) as manifest:
        large = planned_count(manifest, config.matches) >= LARGE
        _check_out(config.out, large)
        if is_other_manifest(manifest, config.matches):
            print(
                f"note: {config.pairs} is not the manifest that {config.matches} was matched with: its keypoints and "
                "boxes are scored, and pairs that it alone has count as failed",
                file=sys.stderr,
            )
        result = _evaluate_on_ray(config, protocols) if large else _evaluate(config, manifest, protocols, thresholds)
    for_programs = config.format in text_tables.PROGRAM_FORMATS
    if for_programs:
        table = text_tables.tidy_table(result.metrics, result.differences, config.matches)
        print(text_tables.as_text(table, config.format))
    else:
        _print_tables(result, protocols, config)
    print(f"\nwrote {config.out}", file=sys.stderr if for_programs else sys.stdout)
    shortfalls = [line for threshold in thresholds for line in threshold.shortfalls(result.metrics)]
    if shortfalls:
        raise RequirementError("; ".join(shortfalls))
    return config.out


@dataclass(frozen=True, kw_only=True)
class _Result:
    metrics: pd.DataFrame
    """METRICS rows; for large runs without those of single pairs."""
    differences: dict[str, pd.DataFrame]
    """The differences in PCK from this run to each other run, by the other run's path."""
    unscored: Unscored
    matcher: str
    """The matcher's name, with what its images were cropped to."""


def _evaluate(
    config: Config, manifest: Manifest, protocols: Sequence[Protocol], thresholds: Sequence[PCKThreshold]
) -> _Result:
    """Evaluate in this process and write METRICS, unless they lack what a threshold is about."""
    pairs = planned_pairs(manifest, config.matches)
    matches = read_matches(config.matches, (*match_columns(protocols), "matcher"))
    bootstrap = {"replicates": config.replicates, "seed": config.seed}
    metrics = evaluate(
        matches, pairs, protocols, config.alpha, config.failed, **bootstrap, manifest_digest=manifest.digest()
    )
    rows = metrics.to_pandas()
    for threshold in thresholds:
        threshold.rows(rows)
    differences = {}
    for other in config.compare:
        others = read_matches(other, match_columns(protocols))
        common = pairs.slice(0, planned_limit(manifest, other))
        differences[other] = compare(matches, others, common, protocols, config.alpha, config.failed, **bootstrap)
    write_metrics(config.out, metrics)
    return _Result(
        metrics=rows, differences=differences, unscored=count_unscored(matches, pairs), matcher=_matcher(metrics)
    )


def _evaluate_on_ray(config: Config, protocols: Sequence[Protocol]) -> _Result:
    # Ray takes seconds to import
    from pipeline.cluster.connect import connected
    from pipeline.evaluation.evaluate_on_ray import evaluate_on_ray

    if config.compare:
        raise ValueError(f"--compare is for runs of fewer than {LARGE:,} pairs")
    with connected(config.address):
        metrics, unscored = evaluate_on_ray(
            storage.absolute(config.matches),
            storage.absolute(config.pairs),
            storage.absolute(config.out),
            protocols,
            config.alpha,
            config.failed,
            replicates=config.replicates,
            seed=config.seed,
        )
    return _Result(metrics=metrics.to_pandas(), differences={}, unscored=unscored, matcher=_matcher(metrics))


def _matcher(metrics: pa.Table) -> str:
    return metrics.schema.metadata[b"matcher"].decode() or "an unnamed matcher"


def _print_tables(result: _Result, protocols: Sequence[Protocol], config: Config) -> None:
    run, form = config.matches, config.format
    texts = [  # the run's own numbers last, where a terminal shows them
        text_tables.published_tables(result.metrics, run, form, dim=sys.stdout.isatty()),
        f"\n{run}, matched by {result.matcher}",
        text_tables.metrics_tables(result.metrics, protocols, config.failed, form),
        *(
            text_tables.difference_tables(rows, run, other, protocols, form)
            for other, rows in result.differences.items()
        ),
        text_tables.unscored_notes(result.unscored),
    ]
    print("\n".join(text for text in texts if text))


def _check_out(out: str, large: bool) -> None:
    """Raises ValueError if `out` is a folder where a file is to be written, or the other way round."""
    if not large and not storage.is_file(out) and storage.list_files(out, ".parquet"):
        raise ValueError(f"--out {out} is a folder, METRICS of fewer than {LARGE:,} pairs are a file: give another")
    if large and storage.is_file(out):
        raise ValueError(f"--out {out} is a file, METRICS of {LARGE:,} pairs or more are a folder: give another")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
