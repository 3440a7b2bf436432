"""Score matches against the manifest's keypoints: PCK under named protocols, per category and overall.

    python -m jobs.evaluate --matches runs/x --pairs pairs.parquet --protocol spair --out metrics.parquet

Predictions are stored once, so any number of protocols is computed from them without running a model: seconds for
thousands of pairs, no GPU. The result is one METRICS Parquet file.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.command import Names, run_command
from pipeline.evaluate import DEFAULT_ALPHAS, evaluate, planned_pairs
from pipeline.metrics import per_category, write_metrics
from pipeline.parts import read_matches
from pipeline.protocols import protocol
from pipeline.scores import MATCH_COLUMNS, Failed, without_keypoints
from pipeline.storage import refuse_overwrite


@dataclass(frozen=True, kw_only=True)
class Config:
    matches: str
    """Run folder of jobs.match, or one MATCHES Parquet file."""
    pairs: str
    """The PAIRS manifest that was matched."""
    protocol: Names
    """Protocols to score, such as spair or pf-pascal; an unknown name is answered with all there are."""
    out: str
    """METRICS Parquet file to write."""
    alpha: tuple[float, ...] = DEFAULT_ALPHAS
    """Thresholds, as a share of the protocol's T."""
    failed: Failed = "wrong"
    """Pairs that failed or are missing: count their keypoints as wrong, or exclude them from the averages."""


def run(config: Config) -> str:
    """Score, print a table per dataset, protocol and direction, and write METRICS; where they were written."""
    refuse_overwrite(config.out, config.matches, config.pairs)
    protocols = [protocol(name) for name in config.protocol]
    pairs = planned_pairs(config.pairs, config.matches)
    matches = read_matches(config.matches, MATCH_COLUMNS)
    metrics = evaluate(matches, pairs, protocols, config.alpha, config.failed)
    write_metrics(config.out, metrics)
    _print_tables(metrics.to_pandas(), config.failed)
    _print_left_out(matches, pairs)
    print(f"\nwrote {config.out}")
    return config.out


def _print_tables(metrics: pd.DataFrame, failed: Failed) -> None:
    overall = metrics[metrics["group_kind"] == "all"]
    for _, rows in overall.groupby(["dataset", "protocol", "direction", "subset"], sort=False):
        counts = rows.iloc[0]
        dataset, name, direction, subset = counts[["dataset", "protocol", "direction", "subset"]]
        print(f"\n{dataset}, protocol {name}" + (", leak-free pairs only" if subset == "leak_free" else ""))
        print(f"  {protocol(name).describe(direction)}; below the image average, percent")
        print(
            f"  {counts.n_pairs:,} pairs, {counts.n_points:,} keypoints; {counts.n_failed:,} pairs failed or missing"
            + (f" ({'counted wrong' if failed == 'wrong' else 'excluded'})" if counts.n_failed else "")
        )
        if counts.n_pairs == 0:
            print("  nothing to score")
            continue
        table = per_category(metrics, dataset=dataset, protocol=name, direction=direction, subset=subset)
        means = rows[["pck_point", "pck_class_mean"]].set_axis(["all keypoints", "class mean"], axis=1)
        table = pd.concat([table, means.T.set_axis([f"PCK@{alpha:g}" for alpha in rows["alpha"]], axis=1)])
        for count in ("pairs", "keypoints", "failed"):
            table[count] = [f"{number:,.0f}" if pd.notna(number) else "" for number in table[count]]
        print(table.to_string(float_format="{:.1f}".format, na_rep="-"))


def _print_left_out(matches: pa.Table, pairs: pa.Table) -> None:
    if n_without := without_keypoints(pairs):
        print(f"\n{n_without:,} pairs have no keypoints to score and are in no average")
    n_others = pc.sum(pc.invert(pc.is_in(matches["pair_id"], pairs["pair_id"]))).as_py()
    if n_others:
        print(f"\n{n_others:,} matches are of pairs that this manifest does not plan and are left out")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
