"""The model card of a checkpoint folder: the network, its training data, and its measured PCK."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from nemf.lpmflow.presets import LPMFlowConfig
from nemf.pmnc.presets import PMNCConfig

CARD = "README.md"


class PCKResult(NamedTuple):
    """PCK of a network on one data set at one threshold."""

    data: str
    n_pairs: int
    protocol: str
    alpha: float
    pck: float
    """Mean over images, percent."""


def pck_results(metrics: pa.Table) -> list[PCKResult]:
    """The results over all pairs and points of a METRICS table."""
    chosen = pc.and_(pc.equal(metrics["group_kind"], "all"), pc.equal(metrics["subset"], "all"))
    return [
        PCKResult(row["dataset"] or "-", row["n_pairs"], row["protocol"], row["alpha"], row["pck_image"])
        for row in metrics.filter(chosen).to_pylist()
    ]


def model_card(
    name: str,
    model: nn.Module,
    config: Any,
    *,
    results: Sequence[PCKResult],
    training_data: str | None,
    commands: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown.

    results: measured PCK.
    training_data: name and terms of use of the data; None if unknown.
    commands: command lines that made the network. settings: those of the training run, by name.
    """
    what, network = _describe(config)
    size = f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M parameters"
    squashed = f"images squashed to {model.image_size} x {model.image_size}"
    lines = [
        f"# {name}",
        "",
        f"{what} for semantic correspondence: where in one image is what another shows at a point.",
        "",
        f"* Network: {network}; {size}, {squashed}.",
        f"* Training data: {training_data or 'not stated; ask its author for the terms of use.'}",
        "",
        "## Measured",
        "",
        *_table(results),
    ]
    if commands:
        lines += ["", "## Made by", "", *(f"    {command}" for command in commands)]
    if settings:
        lines += ["", "## Settings of the training run", "", *(f"* {key}: {value}" for key, value in settings.items())]
    return "\n".join(lines) + "\n"


def _describe(config: Any) -> tuple[str, str]:
    """What the network is, and its parts."""
    if isinstance(config, LPMFlowConfig):
        windows = f"refined in windows of {', '.join(map(str, config.windows))}" if config.windows else "not refined"
        parts = f"{config.cells} x {config.cells} tokens of {config.dim}, {config.depth} blocks over both images"
        return "An LPMFlow (CVPR 2024)", f"{config.backbone}, {parts}, a flow {windows}"
    if isinstance(config, PMNCConfig):
        kernels = " and ".join(f"{side}^4" for side in config.kernels)
        return (
            "A PMNC (CVPR 2021)",
            f"{config.backbone}, {config.feature_size} x {config.feature_size} cells, 4D {kernels}",
        )
    neck = f", a neck of {config.neck_channels} channels" if config.neck_channels else ""
    embedding = "4D convolutions" if config.embedding_channels else "pooled correlations"
    transformer = f" and a transformer of {config.depth} blocks" if config.depth else ""
    field = f"a field of {config.field_blocks} blocks of {config.hidden}"
    what = "A Neural Matching Field (Hong et al., NeurIPS 2022)"
    return what, f"{config.backbone}{neck}, {embedding}{transformer}, {field}"


def _table(results: Sequence[PCKResult]) -> list[str]:
    if not results:
        return ["Nothing yet."]
    alphas = sorted({result.alpha for result in results})
    rows: dict[tuple[str, str, int], dict[float, float]] = {}
    for result in results:
        rows.setdefault((result.data, result.protocol, result.n_pairs), {})[result.alpha] = result.pck
    lines = [
        f"| data | protocol | pairs | {' | '.join(f'PCK@{alpha:g}' for alpha in alphas)} |",
        f"|---|---|---:|{'---:|' * len(alphas)}",
    ]
    for (data, protocol, n_pairs), by_alpha in rows.items():
        cells = [f"{by_alpha[alpha]:.1f}" if alpha in by_alpha else "" for alpha in alphas]
        lines.append(f"| {data} | {protocol} | {n_pairs:,} | {' | '.join(cells)} |")
    return lines
