"""PMNC and LPMFlow with one part changed at a time, trained alike and measured on the same validation pairs.

    python -m benchmarks.ablations --data data --out runs/ablations --weights mobilenetv1_100.safetensors

Trains the variants that the recipes `ablation-pmnc-patch-...` and `ablation-lpmflow-...` name (but for that of a loss),
for fewer steps, from the same seed; goes on where it was interrupted. LPMFlow's variants begin with the same tokens,
which have learned by the descriptor loss. The iterations of PMNC's PatchMatch are an option of its matcher and are not
trained. Each row has the difference from the whole system on the same pairs, with the interval of paired samples.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks import harness
from benchmarks.comparison import match_keypoints, some_pairs
from jobs import train
from jobs.command import run_command
from jobs.recipe import run_stage
from jobs.recipes.other_matchers import lpmflow, pmnc
from jobs.recipes.stages import RecipeOptions, Stage, manifest_stages
from nemf import checkpoints, load_matcher
from nemf.lpmflow.build import build
from nemf.lpmflow.presets import PRESETS
from nemf.matchers.table import is_checkpoint
from nemf.training.lpmflow import initialize_at_features
from pipeline.evaluation.compare import compare
from pipeline.evaluation.protocols import protocol
from pipeline.io.manifest import INLINE_COLUMNS
from pipeline.io.uri_field import LocalPath

_ALPHAS = (0.05, 0.1)
_PMNC, _LPMFLOW = "pmnc-small", "lpmflow-small"
_PATCHES = (1, 3, 7)
_ITERATIONS = (0, 1)
_MODULES = {
    "no-encoder": "encoder",
    "no-upsampler": "window blocks behind upsampling",
    "no-integration": "refinement of the flows",
    "no-window-16": "windows of 16",
    "no-window-4": "windows of 4",
}
"""What each preset is without."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The data, the folder of the trainings, and how long they are."""

    data: LocalPath
    """Folder of the data sets, as the recipes read them."""
    out: LocalPath
    """Folder of the manifests and runs."""
    weights: LocalPath
    """Weights of timm's mobilenetv1_100."""
    pmnc_steps: int = 100
    """Steps, of 4 pairs, of each variant of PMNC."""
    token_steps: int = 400
    """Steps, of 8 pairs, of the tokens that all variants of LPMFlow begin with."""
    lpmflow_steps: int = 20
    """Steps, of 4 pairs, of each variant of LPMFlow."""
    limit: int | None = 60
    """Number of validation pairs to measure on, at equal distances; None: all."""
    results: LocalPath | None = None
    """Folder for ablations.md and ablations.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A system with one part changed, or whole."""

    name: str
    whole: str
    """Preset of the whole system."""
    folder: str
    """Checkpoint folder, with options of the matcher behind it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant on the validation pairs. PCK in percent, average over images, by alpha."""

    name: str
    whole: str
    n_pairs: int
    pck: dict[str, float]
    difference: dict[str, float]
    """PCK minus that of the whole system."""
    low: dict[str, float]
    high: dict[str, float]
    """Its 95 % interval, of paired samples."""
    keypoints_ms: float
    """Processor time of a pair, from decoded images to points."""
    parameters_millions: float


def run(config: Config) -> list[Row]:
    """Train what is not trained yet, match, compare, print."""
    torch.set_num_threads(1)
    load = harness.CompetingLoad()
    variants = list(trained(config))
    pairs = some_pairs(f"{config.out}/val.parquet", config.limit)
    wholes: dict[str, pa.Table] = {}
    rows = []
    for variant in variants:
        matcher, start = load_matcher(variant.folder), time.process_time()
        matches, seconds = match_keypoints(matcher, pairs)
        wholes.setdefault(variant.whole, matches)
        network: Any = matcher.model  # type: ignore[attr-defined]
        rows.append(
            Row(
                name=variant.name,
                whole=variant.whole,
                n_pairs=pairs.num_rows,
                keypoints_ms=1000 * seconds / pairs.num_rows,
                parameters_millions=sum(parameter.numel() for parameter in network.parameters()) / 1e6,
                **_difference(wholes[variant.whole], matches, pairs),
            )
        )
        print(f"{variant.name}: {rows[-1].pck}, {time.process_time() - start:.0f} s", flush=True)
    setup = {
        **harness.describe(),
        "busy with other work": f"{load.share():.0%}",
        "steps": f"PMNC {config.pmnc_steps} of 4 pairs, LPMFlow {config.token_steps} of 8 pairs (tokens alone), "
        f"then {config.lpmflow_steps} of 4",
        "pairs": f"{pairs.num_rows:,} of validation",
    }
    harness.write(config.results, "ablations", setup, table(rows), [asdict(row) for row in rows])
    return rows


def trained(config: Config) -> Iterator[Variant]:
    """All variants, each trained where it is not yet; those of one system in a row, the whole system first."""
    options = RecipeOptions(
        data=Path(config.data), out=Path(config.out), weights=config.weights, threads=1, bfloat16=True
    )
    for manifest in manifest_stages(options):
        run_stage(manifest)
    for preset in (_PMNC, *(f"{_PMNC}-patch-{side}" for side in _PATCHES)):
        stage = shortened(pmnc(preset)(options)[-1], config.pmnc_steps, batch_size=4)
        run_stage(stage)
        name = "PMNC" if preset == _PMNC else f"... with patches of {preset[-1]} cells a side, not 5"
        yield Variant(name=name, whole=_PMNC, folder=f"{stage.out}/checkpoint")
    for iterations in _ITERATIONS:
        folder = f"{options.out / _PMNC}/checkpoint?iterations={iterations}"
        yield Variant(name=f"... with {iterations} iterations of PatchMatch", whole=_PMNC, folder=folder)
    tokens = shortened(lpmflow(_LPMFLOW)(options)[-2], config.token_steps, batch_size=8)
    run_stage(tokens)
    flow = shortened(lpmflow(_LPMFLOW)(options)[-1], config.lpmflow_steps, batch_size=4)
    stages = {"LPMFlow": flow}
    stages |= {f"... without {name}": _without(f"{_LPMFLOW}-{end}", flow, tokens) for end, name in _MODULES.items()}
    for name, stage in stages.items():
        run_stage(stage)
        yield Variant(name=name, whole=_LPMFLOW, folder=f"{stage.out}/checkpoint")
    yield Variant(name="... when its tokens alone have learned", whole=_LPMFLOW, folder=f"{tokens.out}/checkpoint")


def shortened(stage: Stage, steps: int, batch_size: int) -> train.Config:
    """A training of fewer steps, whose result is that of the last: there is nothing to choose."""
    assert isinstance(stage, train.Config)
    trainer = replace(stage.trainer, steps=steps, warmup_steps=steps // 20)
    return replace(stage, trainer=trainer, batch_size=batch_size, validation=None)


def _without(preset: str, flow: train.Config, tokens: train.Config) -> train.Config:
    """The training of a preset of LPMFlow, from a checkpoint that this writes beside it: the learned tokens, and
    all else as a training begins."""
    out = Path(flow.out).parents[1] / preset
    if not is_checkpoint(str(out / "start")):
        whole = checkpoints.load(f"{tokens.out}/checkpoint")
        learned = checkpoints.read_config(f"{tokens.out}/checkpoint")
        network_config = replace(PRESETS[preset](), backbone_config=learned.backbone_config)
        torch.manual_seed(flow.seed)
        network = build(network_config, whole.backbone.backbone)
        initialize_at_features(network)
        network.backbone = whole.backbone
        checkpoints.save(out / "start", network, network_config)
    return replace(flow, start=str(out / "start"), out=str(out / "flow"))


def _difference(whole: pa.Table, matches: pa.Table, pairs: pa.Table) -> dict[str, dict[str, float]]:
    """The fields of Row that compare the matches of a variant with those of the whole system."""
    found = compare(whole, matches, pairs.drop_columns(list(INLINE_COLUMNS)), [protocol("spair")], _ALPHAS)
    found = found[(found["group_kind"] == "all") & (found["subset"] == "all") & (found["average"] == "image")]
    names = [str(alpha) for alpha in found["alpha"]]
    columns = {"pck": "pck_other", "difference": "difference", "low": "difference_low", "high": "difference_high"}
    return {key: dict(zip(names, map(float, found[column]), strict=True)) for key, column in columns.items()}


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a table in Markdown; the first of each system is the whole."""
    heads = ["variant", *(f"PCK@{alpha}" for alpha in _ALPHAS), *(f"difference @{alpha}" for alpha in _ALPHAS)]
    heads += ["keypoints, ms", "parameters, M"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    alphas = [str(alpha) for alpha in _ALPHAS]
    wholes = {row.whole: row for row in reversed(rows)}
    for row in rows:
        pck = [f"{row.pck[a]:.1f}" for a in alphas]
        differences = [f"{row.difference[a]:+.1f} [{row.low[a]:.1f}, {row.high[a]:.1f}]" for a in alphas]
        if row is wholes[row.whole]:
            differences = [""] * len(alphas)
        numbers = [harness.as_text(number) for number in (row.keypoints_ms, row.parameters_millions)]
        lines.append(f"| {' | '.join([row.name, *pck, *differences, *numbers])} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
