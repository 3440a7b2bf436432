"""PMNC's PatchMatch side by side with the whole 4D convolution of the same weights: same features, same scores.

    python -m benchmarks.pmnc --backbone-weights mobilenetv1_100.safetensors --out benchmarks/results

Both begin at the features of a pair's images and end at a reference cell for each query cell. The whole convolution
(`LocalScorer.forward`) scores every pair of cells, layer by layer, and takes the best; PatchMatch scores the patches of
its candidates. Pairs are a photograph and a warped copy of it, and two photographs that have nothing to do with each
other, on which the search takes longest. Nothing is printed unless the scores of PatchMatch's matches are those of the
convolution. One thread. Minutes.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import harness
from benchmarks.inputs import picture
from jobs.command import run_command
from nemf.matcher import RGB
from nemf.model.backbone import load_backbone
from nemf.model.network import squash
from nemf.pmnc.network import PMNC, build
from nemf.pmnc.presets import pmnc_small
from nemf.training.pmnc import initialize_at_consensus
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, warped_pair

_SCORES = 1e-5
"""Maximum difference of scores, as a share of the greatest."""
_PIXELS_PER_CELL = 8


@dataclass(frozen=True, kw_only=True)
class Config:
    """The scorer, the sizes, and the output folder."""

    cells: tuple[int, ...] = (16, 32, 64)
    """Cells a side; the network's images have 8 pixels a cell."""
    kernels: tuple[int, ...] = (5, 1)
    """Sides of the scorer's kernels."""
    channels: tuple[int, ...] = (16, 1)
    """Its channels."""
    backbone_weights: str | None = None
    """Weights of timm's mobilenetv1_100; default: random."""
    iterations: int = 8
    """Maximum number of PatchMatch's iterations."""
    repeats: int = 1
    """Runs of each beside the first."""
    out: str | None = None
    """Folder for pmnc.md and pmnc.json; default: print only."""


def run(config: Config) -> list[dict[str, Any]]:
    """Measure every size and pair, and print the table. Raises RuntimeError where scores differ."""
    torch.set_num_threads(1)
    rows = [_measure(network(config, cells), pair, config) for cells in config.cells for pair in PAIRS]
    scorer = ", ".join(f"{k}^4 to {c}" for k, c in zip(config.kernels, config.channels, strict=True))
    setup = {**harness.describe(), "scorer": scorer, "images": "375 x 500"}
    harness.write(config.out, "pmnc", setup, _table(rows), rows)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


@torch.no_grad()
def network(config: Config, cells: int) -> PMNC:
    """PMNC's small preset with so many cells a side, as training begins: a scorer that sees what moves together."""
    torch.manual_seed(0)
    sizes = replace(
        pmnc_small(),
        kernels=config.kernels,
        channels=config.channels,
        image_size=_PIXELS_PER_CELL * cells,
        feature_size=cells,
    )
    backbone = None
    if config.backbone_weights is not None:
        indices = sizes.backbone_config.out_indices
        backbone = load_backbone(sizes.backbone, Path(config.backbone_weights), indices)
    model = build(sizes, backbone).requires_grad_(False)
    initialize_at_consensus(model)
    return model


def _warped() -> tuple[RGB, RGB]:
    example = warped_pair(picture((375, 500), 0), 4, generator_of("benchmark"), WarpConfig())
    return example.query.rgb, example.reference.rgb


def _unrelated() -> tuple[RGB, RGB]:
    return picture((375, 500), 0), np.asarray(skimage.data.coffee())[:375, :500]


PAIRS = {"a warped copy": _warped, "unrelated": _unrelated}


def _measure(model: PMNC, pair: str, config: Config) -> dict[str, Any]:
    backbone = model.backbone
    images = [
        squash(torch.from_numpy(rgb.copy()), backbone.mean, backbone.std, model.image_size) for rgb in PAIRS[pair]()
    ]
    query, reference = model.features(torch.stack(images))
    seconds: dict[str, list[float]] = {name: [] for name in ("whole", "PatchMatch", "features")}
    ways: dict[str, Callable[[], Any]] = {
        "whole": partial(whole, model, query, reference),
        "PatchMatch": partial(patchmatch, model, query, reference, config.iterations),
        "features": partial(model.features, torch.stack(images)),
    }
    timed = {name: partial(_timed, way, seconds[name]) for name, way in ways.items()}
    measured = harness.measure(timed, torch.device("cpu"), config.repeats)
    (best, dense), (cell, score, iterations, scored) = measured["whole"].answer, measured["PatchMatch"].answer
    expected = dense.gather(1, cell[:, None])[:, 0]
    difference = float((score - expected).abs().max() / dense.abs().max())
    if difference > _SCORES:
        raise RuntimeError(f"scores differ by {difference:.1e} of the greatest; at most {_SCORES:.0e} is rounding")
    return {
        "cells": model.feature_size,
        "pair": pair,
        "iterations": iterations,
        "scored": scored,
        "best found": float((expected >= best - _SCORES * dense.abs().max()).float().mean()),
        "score difference": difference,
        **{f"{name} s": min(of) for name, of in seconds.items()},
        **{f"{name} MB": of.rise_mb for name, of in measured.items()},
    }


def _timed(way: Callable[[], Any], seconds: list[float]) -> Any:
    """What `way` returns; the processor time it took is added to the list."""
    start = time.process_time()
    answer = way()
    seconds.append(time.process_time() - start)
    return answer


@torch.no_grad()
def whole(
    model: PMNC, query: Float[Tensor, "c h w"], reference: Float[Tensor, "c h w"]
) -> tuple[Float[Tensor, " q"], Float[Tensor, "q r"]]:
    """The best score of every query cell, and all scores, by the whole 4D convolution."""
    scores = model.scorer(model.correlation(query, reference).volume).flatten(2).flatten(0, 1)
    return scores.amax(dim=1), scores


def patchmatch(
    model: PMNC, query: Float[Tensor, "c h w"], reference: Float[Tensor, "c h w"], iterations: int
) -> tuple[Tensor, Tensor, int, int]:
    """The reference cell of every query cell by PatchMatch, its score, iterations, and pairs of cells scored."""
    found = model.match_cells(model.correlation(query, reference), iterations, True)
    return found.cell, found.local_scores[:, 4], found.iterations, found.scored


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| cells | pair | whole, s | PatchMatch, s | times faster | whole, MB | PatchMatch, MB | share of memory "
        "| iterations | pairs scored | best found | features, s |",
        f"|---|---|{'---:|' * 10}",
    ]
    for row in rows:
        cells, share = row["cells"], row["scored"] / row["cells"] ** 4
        lines.append(
            f"| {cells} x {cells} | {row['pair']} | {harness.as_text(row['whole s'])} "
            f"| {harness.as_text(row['PatchMatch s'])} | {row['whole s'] / row['PatchMatch s']:.1f} "
            f"| {harness.as_text(row['whole MB'])} | {harness.as_text(row['PatchMatch MB'])} "
            f"| {row['PatchMatch MB'] / max(row['whole MB'], 1e-9):.1%} | {row['iterations']} | {share:.2%} "
            f"| {row['best found']:.1%} | {harness.as_text(row['features s'])} |"
        )
    return [
        *lines,
        "",
        "Processor time of one thread, the least of the runs, and memory, from the features of both images to a match "
        "for every cell. Scores are apart by at most "
        f"{max(row['score difference'] for row in rows):.0e} of the greatest. Best found: query cells whose match has "
        "the best score of all reference cells.",
    ]


if __name__ == "__main__":
    sys.exit(main())
