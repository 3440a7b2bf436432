"""NeMF, PMNC, LPMFlow and nearest neighbours, trained alike and measured on the same pairs.

    python -m benchmarks.comparison --data data --out runs/comparison --weights mobilenetv1_100.safetensors \\
        --manifests spair.parquet,willow.parquet

Runs the recipe `comparison`, which goes on where it was interrupted, and matches its validation pairs and the pairs of
--manifests with the three checkpoints and with nearest neighbours of the backbone as it was. Protocol is spair, for
PF-WILLOW, which has no boxes, pf-willow-bbox-kp. Times and memory are of one thread.

With --same-hours-as, as many hours instead of as many steps: the others are trained once more, from the beginning, by
the steps that take as long as that system's training, at the pace of their first; their last step is kept.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch

from benchmarks import harness
from jobs import train
from jobs.command import Names, run_command
from jobs.recipe import run_stage
from jobs.recipes.other_matchers import comparison
from jobs.recipes.stages import RecipeOptions, Stage
from nemf import checkpoints, load_matcher
from nemf.matcher import Matcher
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.protocols import Protocol, protocol
from pipeline.io.manifest import INLINE_COLUMNS, read_pairs
from pipeline.io.uri_field import LocalPath
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from pipeline.training.folder import read_history
from schemas.pairs import PAIRS

_NEIGHBOURS = "nearest-neighbour:timm/mobilenetv1_100?image_size=256&window=0"
_ALPHAS = (0.01, 0.05, 0.1)
_PAIRS_AT_ONCE = 8
_DENSE_PAIRS = 8
"""Number of pairs that are matched densely, for the time of it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The data, the folder of the trainings, and what is measured."""

    data: LocalPath
    """Folder of the data sets, as the recipe reads them."""
    out: LocalPath
    """Folder of the recipe's manifests and runs."""
    weights: LocalPath
    """Weights of timm's mobilenetv1_100."""
    steps: int = 4000
    """Steps of each training."""
    manifests: Names = ()
    """Further PAIRS manifests to measure on; test pairs choose nothing."""
    same_hours_as: Literal["nemf-mobilenet", "pmnc-small", "lpmflow-small"] | None = None
    """Also train the other systems for as many hours as this one; default: as many steps only."""
    limit: int | None = None
    """Number of pairs of each manifest to measure on, at equal distances; default: all."""
    results: LocalPath | None = None
    """Folder for comparison.md and comparison.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A matcher on a manifest."""

    matcher: str
    parameters_millions: float
    training_steps: int | None
    """Of 4 pairs; None without a training."""
    training_hours: float | None
    """Of all its steps, data included, at the pace of its training with as many steps as the others."""
    manifest: str
    n_pairs: int
    pck: dict[str, float]
    """PCK in percent, average over images, by alpha."""
    low: dict[str, float]
    high: dict[str, float]
    """Its 95 % interval."""
    keypoints_ms: float
    """Processor time of a pair, from decoded images to points."""
    dense_ms: float
    """The same for a displacement of every pixel and no points."""
    memory_mb: float
    """Growth of the process's memory while the pairs are matched densely, with the loaded network in it before."""


def run(config: Config) -> list[Row]:
    """Train what is not trained yet, match, evaluate, print."""
    torch.set_num_threads(1)
    load = harness.CompetingLoad()
    options = RecipeOptions(
        data=Path(config.data), out=Path(config.out), weights=config.weights, threads=1, bfloat16=True
    )
    trainings = _alike(config.steps, options)
    if config.same_hours_as is not None:
        trainings += _as_long(config.same_hours_as, trainings, options)
    rows = []
    for manifest in (f"{config.out}/val.parquet", *config.manifests):
        pairs = some_pairs(manifest, config.limit)
        for training in (None, *trainings):
            folder = f"{training.stages[-1].out}/checkpoint" if training else None
            matcher = load_matcher(folder or _NEIGHBOURS, backbone_weights=None if folder else config.weights)
            about: dict[str, Any] = {
                "matcher": training.system if training else "nearest-neighbour",
                "parameters_millions": _millions(matcher, folder),
                "training_steps": training and training.steps,
                "training_hours": training and training.hours,
                "manifest": Path(manifest).stem,
            }
            rows.append(Row(**about, **measured(matcher, pairs)))
            print(f"{rows[-1].matcher}, {rows[-1].manifest}: {rows[-1].pck}", flush=True)
    setup = {
        **harness.describe(),
        "busy with other work": f"{load.share():.0%}",
    }
    harness.write(config.results, "comparison", setup, table(rows), [asdict(row) for row in rows])
    return rows


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The finished training of a system."""

    system: str
    steps: int
    hours: float
    """Row.training_hours."""
    stages: list[train.Config]


def _alike(steps: int, options: RecipeOptions) -> list[_Training]:
    """Manifests and trainings of the recipe `comparison`, each made where it is not there yet."""
    stages = comparison(steps)(options)
    for stage in stages:
        _run_stage(stage)
    return [
        _Training(system=system, steps=steps, hours=sum(map(_hours, of_system)), stages=of_system)
        for system, of_system in _by_system(stages, options).items()
    ]


def _as_long(system: str, trainings: Sequence[_Training], options: RecipeOptions) -> list[_Training]:
    """The trainings of the other systems with as many steps as take the hours of this one."""
    of_system = {training.system: training for training in trainings}[system]
    apart = replace(options, out=options.out / f"as-long-as-{system}")
    others = []
    for training in trainings:
        if training is of_system:
            continue
        steps = round(training.steps * of_system.hours / training.hours)
        stages = [
            replace(stage, pairs=first.pairs, photographs=first.photographs, validation=None)
            for stage, first in zip(
                _by_system(comparison(steps)(apart), apart)[training.system], training.stages, strict=True
            )
        ]
        for stage in stages:
            _run_stage(stage)
        others.append(_Training(system=training.system, steps=steps, hours=of_system.hours, stages=stages))
    return others


def _run_stage(stage: Stage) -> None:
    print(f"stage: {stage.out}", flush=True)
    run_stage(stage)


def _by_system(stages: Sequence[Stage], options: RecipeOptions) -> dict[str, list[train.Config]]:
    """The trainings among the stages, by the names of their folders in `options.out`."""
    trainings = [stage for stage in stages if isinstance(stage, train.Config)]
    names = [Path(stage.out).relative_to(options.out).parts[0] for stage in trainings]
    return {name: [stage for stage, of in zip(trainings, names, strict=True) if of == name] for name in names}


def _millions(matcher: Matcher, folder: str | None) -> float:
    """Parameters of the network, in millions."""
    network: Any = checkpoints.load(folder) if folder else matcher.backbone  # type: ignore[attr-defined]
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def _hours(training: train.Config) -> float:
    steps = read_history(training.out)["training"]
    return sum(row["seconds_per_step"] for row in steps) / len(steps) * training.trainer.steps / 3600


def some_pairs(manifest: str, limit: int | None) -> pa.Table:
    """At most `limit` pairs of a manifest, at equal distances, with all columns of PAIRS; None: all."""
    pairs = read_pairs(manifest, PAIRS.names)
    if limit is None or pairs.num_rows <= limit:
        return pairs
    return pairs.take([number * pairs.num_rows // limit for number in range(limit)])


def protocol_of(pairs: pa.Table) -> Protocol:
    """spair; for pairs without boxes, PF-WILLOW's own."""
    return protocol("pf-willow-bbox-kp" if pairs["target_box_xyxy"].null_count else "spair")


def match_keypoints(matcher: Matcher, pairs: pa.Table) -> tuple[pa.Table, float]:
    """The matches of pairs with all columns of PAIRS, and the processor time of it in seconds, without decoding."""
    directions = protocol_of(pairs).directions[:1]
    options = MatchOptions(directions=directions, outputs=("keypoints",), batch_pairs=_PAIRS_AT_ONCE)
    matched, seconds = [], 0.0
    for first in range(0, pairs.num_rows, _PAIRS_AT_ONCE):
        for chunk in decode_rows(pairs.slice(first, _PAIRS_AT_ONCE), None):
            start = time.process_time()
            matched.append(match_chunk(matcher, chunk, options, fingerprint=matcher.fingerprint, attempt=1))
            seconds += time.process_time() - start
    return pa.concat_tables(matched), seconds


@harness.nothing_kept()
def measured(matcher: Matcher, pairs: pa.Table) -> dict[str, Any]:
    """The fields of Row that are measured: `pairs` have all columns of PAIRS."""
    truth, measure = pairs.drop_columns(list(INLINE_COLUMNS)), protocol_of(pairs)
    matched, seconds = match_keypoints(matcher, pairs)
    dense = MatchOptions(directions=measure.directions[:1], outputs=("flow",), batch_pairs=_PAIRS_AT_ONCE)
    chunks = list(decode_rows(pairs.slice(0, _DENSE_PAIRS), None))
    start = time.process_time()
    of_dense = harness.measure(
        {"dense": lambda: [match_chunk(matcher, c, dense, fingerprint="f", attempt=1) for c in chunks]},
        torch.device("cpu"),
        repeats=0,
    )["dense"]
    dense_seconds = time.process_time() - start
    metrics = evaluate(matched, truth, [measure], _ALPHAS).to_pandas()
    overall = metrics[(metrics["group_kind"] == "all") & (metrics["subset"] == "all")]
    names = [str(alpha) for alpha in overall["alpha"]]
    columns = {"pck": "pck_image", "low": "pck_image_low", "high": "pck_image_high"}
    return {
        "n_pairs": pairs.num_rows,
        **{key: dict(zip(names, map(float, overall[column]), strict=True)) for key, column in columns.items()},
        "keypoints_ms": 1000 * seconds / max(pairs.num_rows, 1),
        "dense_ms": 1000 * dense_seconds / max(min(pairs.num_rows, _DENSE_PAIRS), 1),
        "memory_mb": of_dense.rise_mb,
    }


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a table in Markdown."""
    heads = ("pairs of", "matcher", *(f"PCK@{alpha}" for alpha in _ALPHAS), "keypoints, ms", "dense, ms")
    heads += ("memory, MB", "parameters, M", "steps", "training, h")
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for row in rows:
        values = [f"{row.pck[a]:.1f} [{row.low[a]:.1f}, {row.high[a]:.1f}]" for a in map(str, _ALPHAS)]
        numbers = (row.keypoints_ms, row.dense_ms, row.memory_mb, row.parameters_millions)
        training = [n if n is None else harness.as_text(n) for n in (row.training_steps, row.training_hours)]
        cells = [f"{row.manifest} ({row.n_pairs:,})", row.matcher, *values, *map(harness.as_text, numbers)]
        cells += [text or "" for text in training]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
