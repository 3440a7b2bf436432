"""Score matches against the manifest's keypoints: PCK under named protocols, per category and overall.

    python -m jobs.evaluate --matches runs/x --pairs pairs.parquet --protocol spair nemf --out metrics.parquet
    python -m jobs.evaluate ... --compare runs/y
    python -m jobs.evaluate ... --format json --require "spair image .1 all >= 50"

Predictions are stored once, so any number of protocols is computed from them without running a model: seconds for
thousands of pairs, no GPU. The result is METRICS: one Parquet file, or a folder of that name for a million pairs or
more, which are scored on Ray. Intervals are 95 %, by a bootstrap over images.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jobs.command import Names, RequirementError, run_command
from pipeline.evaluation import text_tables
from pipeline.evaluation.bootstrap import REPLICATES
from pipeline.evaluation.compare import compare
from pipeline.evaluation.evaluate import (
    DEFAULT_ALPHAS,
    LARGE,
    LeftOut,
    evaluate,
    left_out,
)
from pipeline.evaluation.keypoint_errors import MATCH_COLUMNS, Failed
from pipeline.evaluation.metrics import write_metrics
from pipeline.evaluation.protocols import Protocol, protocol
from pipeline.evaluation.published import beside
from pipeline.evaluation.quality_gate import requirement
from pipeline.io import storage
from pipeline.runs.parts import read_matches
from pipeline.runs.selection import planned_count, planned_pairs

_FOR_PROGRAMS = ("csv", "json")
_SET_BESIDE_ALPHA = 0.1
_AVERAGES = {"image": "images", "point": "keypoints", "class": "categories"}


@dataclass(frozen=True, kw_only=True)
class Config:
    matches: str
    """Run folder of jobs.match, or one MATCHES Parquet file."""
    pairs: str
    """The PAIRS manifest that was matched."""
    protocol: Names
    """Protocols to score, such as spair or pf-pascal, or package.module:NAME for your own; an unknown name is answered
    with all there are."""
    out: str
    """METRICS Parquet file to write; for a million pairs or more a folder of them, in which nothing else may be."""
    alpha: tuple[float, ...] = DEFAULT_ALPHAS
    """Thresholds, as a share of the protocol's T."""
    failed: Failed = "wrong"
    """Pairs that failed or are missing: count their keypoints as wrong, or exclude them from the averages."""
    compare: Names = ()
    """Other runs over the same manifest: how much better or worse each is, with an interval of the difference."""
    require: tuple[str, ...] = ()
    """Least values, such as "spair image .1 all >= 50" (protocol, average over image, point or class, alpha, all or a
    category); where one is missed the exit code is 4."""
    format: text_tables.Format = "text"
    """How tables are printed; csv and json print nothing else: METRICS without single pairs, or with --compare the
    differences."""
    replicates: int = REPLICATES
    """Bootstrap replicates that the intervals come from; 0 for no intervals."""
    seed: int = 0
    """Of the bootstrap."""
    address: str | None = None
    """Ray cluster for a million pairs or more; default: RAY_ADDRESS, else an embedded one on this machine."""


def run(config: Config) -> str:
    """Score, print tables, write METRICS and check what is required; where they were written.

    Raises ValueError and OSError for what the caller can mend, RequirementError where a requirement is missed.
    """
    storage.refuse_overwrite(config.out, config.matches, config.pairs)
    if config.replicates < 0:
        raise ValueError(f"--replicates must be 0 or more; got {config.replicates}")
    protocols = [protocol(name) for name in config.protocol]
    required = [requirement(text) for text in config.require]
    for each in required:
        each.check([found.name for found in protocols], config.alpha)
    large = planned_count(config.pairs, config.matches) >= LARGE
    _check_out(config.out, large)
    evaluated = _evaluate_large(config, protocols) if large else _evaluate(config, protocols)
    frame, others = evaluated.metrics, evaluated.differences
    if config.format in _FOR_PROGRAMS:
        tidy = frame[frame["group_kind"] != "pair"]
        if others:
            named = [found.assign(run=config.matches, other=other) for other, found in others.items()]
            tidy = pd.concat(named, ignore_index=True)
        print(text_tables.as_text(tidy, config.format))
    else:
        _print_tables(frame, {found.name: found for found in protocols}, config)
        for other, found in others.items():
            _print_differences(found, other, protocols, config)
        _print_published(frame, config)
        _print_left_out(evaluated.left_out)
    unmet = [line for each in required for line in each.unmet(frame)]
    print(f"\nwrote {config.out}", file=sys.stderr if config.format in _FOR_PROGRAMS else sys.stdout)
    if unmet:
        raise RequirementError("; ".join(unmet))
    return config.out


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    metrics: pd.DataFrame
    """METRICS, of large runs without single pairs."""
    differences: dict[str, pd.DataFrame]
    """By the other run."""
    left_out: LeftOut


def _evaluate(config: Config, protocols: Sequence[Protocol]) -> _Evaluated:
    pairs = planned_pairs(config.pairs, config.matches)
    matches = read_matches(config.matches, MATCH_COLUMNS)
    bootstrap = {"replicates": config.replicates, "seed": config.seed}
    metrics = evaluate(matches, pairs, protocols, config.alpha, config.failed, **bootstrap)
    differences = {}
    for other in config.compare:
        others = read_matches(other, MATCH_COLUMNS)
        differences[other] = compare(matches, others, pairs, protocols, config.alpha, config.failed, **bootstrap)
    write_metrics(config.out, metrics)
    return _Evaluated(metrics=metrics.to_pandas(), differences=differences, left_out=left_out(matches, pairs))


def _evaluate_large(config: Config, protocols: Sequence[Protocol]) -> _Evaluated:
    # Ray takes seconds to import
    from pipeline.cluster.connect import connected
    from pipeline.evaluation.evaluate_on_ray import evaluate_large

    if config.compare:
        raise ValueError(f"--compare is for runs of fewer than {LARGE:,} pairs")
    with connected(config.address):
        metrics, counted = evaluate_large(
            storage.absolute(config.matches),
            storage.absolute(config.pairs),
            storage.absolute(config.out),
            protocols,
            config.alpha,
            config.failed,
            replicates=config.replicates,
            seed=config.seed,
        )
    return _Evaluated(metrics=metrics.to_pandas(), differences={}, left_out=counted)


def _print_tables(metrics: pd.DataFrame, protocols: dict[str, Protocol], config: Config) -> None:
    overall = metrics[metrics["group_kind"] == "all"]
    for _, rows in overall.groupby(text_tables.KEYS, sort=False):
        counts = rows.iloc[0]
        dataset, name, direction, subset = counts[text_tables.KEYS]
        print(f"\n{dataset}, protocol {name}" + (", leak-free pairs only" if subset == "leak_free" else ""))
        print(f"  {protocols[name].describe(direction)}")
        print("  in the table: average over images, percent, where it does not say otherwise")
        print(
            f"  {counts.n_pairs:,} pairs, {counts.n_points:,} keypoints; {counts.n_failed:,} pairs failed or missing"
            + (f" ({'counted wrong' if config.failed == 'wrong' else 'excluded'})" if counts.n_failed else "")
        )
        if counts.n_pairs == 0:
            print("  nothing to score")
            continue
        print(text_tables.as_text(text_tables.summary(metrics, rows), config.format))


def _print_differences(differences: pd.DataFrame, other: str, protocols: Sequence[Protocol], config: Config) -> None:
    """The other run's PCK less this one's under each protocol's own average, with its interval."""
    print(f"\n{other} less {config.matches}: points of PCK [95 % interval]")
    if differences.empty:
        print("  nothing to compare")
        return
    average_of = {found.name: found.average for found in protocols}
    for _, of_scope in differences.groupby(text_tables.KEYS, sort=False):
        dataset, name, direction, subset = of_scope.iloc[0][text_tables.KEYS]
        average = average_of[name]
        # categories have no average over categories
        own = np.where(of_scope["group_kind"] == "all", average, "image" if average == "class" else average)
        rows = of_scope[of_scope["group_kind"].isin(["category", "all"]) & (of_scope["average"] == own)]
        about = f"{dataset}, protocol {name}, {direction.replace('_', ' ')}, average over {_AVERAGES[average]}"
        print(f"\n{about}" + (", leak-free pairs only" if subset == "leak_free" else ""))
        whole = rows[rows["group_kind"] == "all"].iloc[0]
        print(f"  failed or missing: {whole['n_failed']:,} pairs of this run, {whole['n_failed_other']:,} of the other")
        ends = rows[["difference", "difference_low", "difference_high"]].to_numpy()
        interval = [
            f"{value:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if np.isfinite(low) else "") for value, low, high in ends
        ]
        table = rows.assign(shown=interval).pivot(index=["group_kind", "group"], columns="alpha", values="shown")
        table.columns = [f"PCK@{alpha:g}" for alpha in table.columns]
        counts = rows.drop_duplicates(["group_kind", "group"]).set_index(["group_kind", "group"])["n_pairs"]
        table.insert(0, "pairs", counts.map("{:,}".format))
        in_order = table.loc[counts.index].droplevel("group_kind").rename_axis(None)
        print(text_tables.as_text(in_order, config.format))


def _print_published(metrics: pd.DataFrame, config: Config) -> None:
    """What papers say of the same data sets and categories, and which of it may be compared."""
    rows = beside(metrics, config.matches)
    rows = rows[rows["alpha"] == _SET_BESIDE_ALPHA]
    papers = rows[rows["source"] != "this run"]
    for dataset, of_papers in papers.groupby("dataset"):
        print(f"\n{dataset}: published PCK@{_SET_BESIDE_ALPHA:g}, beside this run's under the same protocol")
        lines = {}
        for (method, name), found in of_papers.groupby(["method", "protocol"], sort=False):
            alike = found[found["comparable"]]
            lines[f"{method} ({name}{'' if len(alike) else ', not comparable'})"] = found.set_index("category")["pck"]
            keys = ["dataset", "protocol", "direction", "category"]
            own = alike[keys].merge(rows[rows["source"] == "this run"], on=keys)
            if len(own):
                lines[f"  this run ({name})"] = own.set_index("category")["pck"]
        table = pd.DataFrame(lines).T
        order = [category for category in table.columns if category != "all"]
        table = table[[*order, *(["all"] if "all" in table.columns else [])]].map(
            lambda value: "-" if pd.isna(value) else f"{value:.1f}"
        )
        text = text_tables.as_text(table, config.format)
        if config.format == "text" and sys.stdout.isatty():
            text = _greyed(text)
        print(text)
        print("  a run's number is shown where it is of the same direction and number of pairs")


def _greyed(text: str) -> str:
    """Lines that are not comparable, dim on a terminal."""
    return "\n".join(f"\033[2m{line}\033[0m" if "not comparable" in line else line for line in text.splitlines())


def _print_left_out(found: LeftOut) -> None:
    if found.n_without_keypoints:
        print(f"\n{found.n_without_keypoints:,} pairs have no keypoints to score and are in no average")
    if found.n_foreign:
        print(f"\n{found.n_foreign:,} matches are of pairs that this manifest does not plan and are left out")


def _check_out(out: str, large: bool) -> None:
    """ValueError where a folder is in the way of a file, or a file in that of a folder."""
    if not large and not storage.is_file(out) and storage.list_files(out, ".parquet"):
        raise ValueError(f"--out {out} is a folder, METRICS of fewer than {LARGE:,} pairs are a file: give another")
    if large and storage.is_file(out):
        raise ValueError(f"--out {out} is a file, METRICS of {LARGE:,} pairs or more are a folder: give another")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
