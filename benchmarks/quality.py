"""PCK, queries and time of each option of the search, on pairs with known keypoints.

Among the variants are those of the paper's Table 4 (exhaustive on a grid, PatchMatch, PatchMatch and coordinate
optimisation) and of its Figure 5 (iterations against PCK and time), which is drawn too.

    python -m benchmarks.quality --checkpoint runs/model --manifest pairs.parquet --out benchmarks/results

Needs a trained network. Choose options by validation pairs only: whoever chooses by test pairs reports a number that
holds for those alone. Every pair is encoded once and searched with every variant, which takes seconds a pair on two
cores; `--variants` picks some.
"""

import fnmatch
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import harness
from benchmarks.queries import counted
from jobs.command import Names, run_command
from nemf import checkpoints, pretrained
from nemf.coordinates import pixel_grid, px_to_norm
from nemf.load import find_device
from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import EncodedField
from nemf.search.config import SearchConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.protocols import protocol
from pipeline.io import storage
from pipeline.io.manifest import INLINE_COLUMNS, read_pairs
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

_ALPHAS = (0.1, 0.05, 0.01)
_BATCH_PAIRS = 8
_PAIRS_AT_ONCE = 64
"""Number of pairs whose encodings are kept until all variants have matched them: 17 MB a pair for the published
network, 60 MB for nemf-mobilenet."""

_EXHAUSTIVE = {f"exhaustive {n} x {n}": n for n in (16, 64)}
"""Exhaustive search of Table 4: the best of all positions of a grid, not refined."""

_SHIPPED = pretrained.search_settings("nemf-small")

_ITERATIONS = {f"every 4th pixel; {n} iterations": n for n in (0, 1, 2, 3, 5, 10)}
"""Variants of Figure 5: numbers of iterations of the published search."""

_OTHERWISE: dict[str, dict[str, Any]] = {
    "no refinement": {"refine_steps": 0},
    "10 refinement steps": {"refine_steps": 10},
    "refinement steps of 0.003": {"refine_lr": 0.003},
    "radius 0.1": {"radius_norm": 0.1},
    "radius stays": {"radius_decay": 1.0},
    "radius stays at 0.1": {"radius_norm": 0.1, "radius_decay": 1.0},
    "radius stays at 0.1; no refinement": {"radius_norm": 0.1, "radius_decay": 1.0, "refine_steps": 0},
    "every 8th pixel": {"grid_strides": (8,)},
    "every 8th pixel; 5 iterations": {"grid_strides": (8,), "patchmatch_steps": 5},
}
"""Variants of the published search with single settings changed."""

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "coarse flow only": {"patchmatch_steps": 0, "refine_steps": 0},
    **{name: {"patchmatch_steps": 0, "refine_steps": 0} for name in _EXHAUSTIVE},
    "no refinement": {"refine_steps": 0},
    **{f"{n} iterations": {"patchmatch_steps": n} for n in (0, 5, 10, 40)},
    **{name: _SHIPPED | {"patchmatch_steps": n} for name, n in _ITERATIONS.items()},
    **{f"ships; {name}": _SHIPPED | settings for name, settings in _OTHERWISE.items()},
    "10 refinement steps": {"refine_steps": 10},
    **{f"{n} times the learning rate": {"refine_lr": n * 3e-4} for n in (10, 30)},
    "whole gradient": {"positional_gradient": True},
    "whole gradient; 10 times the rate": {"positional_gradient": True, "refine_lr": 3e-3},
    "neighbour offset": {"neighbour_offset": True},
    "radius falls by a fifth": {"radius_decay": 0.8},
    "every 4th pixel first": {"grid_strides": (4, 1)},
    "every 4th pixel first; 5 iterations each": {"grid_strides": (4, 1), "patchmatch_steps": 5},
}
"""The settings of nemf.search.config.SearchConfig of each variant; all others are the published ones."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The network, the pairs and the variants."""

    checkpoint: str
    """Checkpoint folder of the network, path or URI."""
    manifest: str
    """PAIRS manifest, path or URI, of validation pairs with keypoints."""
    image_root: str | None = None
    """Folder, path or URI, of the manifest's relative image URIs."""
    variants: Names = ()
    """Names of the variants to measure, or patterns with *; default: all."""
    protocol: str = "spair"
    """Protocol of PCK, see pipeline.evaluation.protocols."""
    limit: int | None = None
    """Number of pairs to use, the first ones; default: all."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    out: str | None = None
    """Folder for quality.md and quality.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one variant on one data set."""

    dataset: str
    variant: str
    settings: dict[str, Any]
    pck: dict[str, float]
    """PCK in percent, average over images, by alpha."""
    n_pairs: int
    """Number of pairs in the average."""
    n_failed: int
    """Number of these pairs that failed; they count as wrong."""
    queries: float
    """Queries that PatchMatch scored per pair, over all data sets."""
    milliseconds: float
    """Seconds of PatchMatch and coordinate optimisation per pair, over all data sets."""


def run(config: Config) -> list[Row]:
    """Match, evaluate, print. Raises ValueError and FileNotFoundError as loading, matching and evaluating do."""
    measure = protocol(config.protocol)
    selected = {pattern: fnmatch.filter(VARIANTS, pattern) for pattern in config.variants or ("*",)}
    if unknown := [pattern for pattern, names in selected.items() if not names]:
        raise ValueError(f"there is no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    device = find_device(config.device)
    load = harness.CompetingLoad()
    model = checkpoints.load(config.checkpoint)
    pairs = read_pairs(config.manifest, PAIRS.names).slice(0, config.limit)
    if not pairs.num_rows:
        raise ValueError(f"{config.manifest}: there are no pairs to match")
    encode = _EncodeOnce(NemfMatcher("nemf", model, device))
    variants = {
        name: _Variant(NemfMatcher(name, model, device, SearchConfig(**settings)), encode, _EXHAUSTIVE.get(name))
        for name, settings in VARIANTS.items()
        if any(name in names for names in selected.values())
    }
    options = MatchOptions(directions=measure.directions[:1], outputs=("keypoints",), batch_pairs=_BATCH_PAIRS)
    matched: dict[str, list[pa.Table]] = {name: [] for name in variants}
    for first in range(0, pairs.num_rows, _PAIRS_AT_ONCE):
        for chunk in decode_rows(pairs.slice(first, _PAIRS_AT_ONCE), config.image_root):
            for name, variant in variants.items():
                matched[name].append(match_chunk(variant, chunk, options, fingerprint=variant.fingerprint, attempt=1))
        encode.forget()
    truth = pairs.drop_columns(list(INLINE_COLUMNS))
    rows = [
        row
        for name, variant in variants.items()
        for row in _rows(
            name, variant, evaluate(pa.concat_tables(matched[name]), truth, [measure], _ALPHAS, replicates=0)
        )
    ]
    setup = {
        **harness.describe(device),
        "busy with other work": f"{load.share():.0%}",
        "checkpoint": config.checkpoint,
        "protocol": f"{config.protocol} ({measure.describe(options.directions[0])}; average over images)",
    }
    harness.write(config.out, "quality", setup, _table(rows), [asdict(row) for row in rows])
    if config.out is not None:
        storage.write_bytes(storage.join(config.out, "quality.png"), _draw(rows))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


class _EncodeOnce:
    """The encoder that all variants share; it keeps encoded pairs until forget()."""

    def __init__(self, matcher: NemfMatcher) -> None:
        self._matcher = matcher
        self._known: dict[tuple[str, ...], EncodedField] = {}

    def __call__(self, pairs: Sequence[ImagePair]) -> EncodedField:
        ids = tuple(pair.pair_id for pair in pairs)
        if ids not in self._known:
            self._known[ids] = self._matcher.encode(pairs)
        return self._known[ids]

    def forget(self) -> None:
        """Drop the encoded pairs."""
        self._known.clear()


class _Variant(Matcher):
    """A matcher that takes the encodings of another, and records its own time and queries."""

    def __init__(self, matcher: NemfMatcher, encode: _EncodeOnce, exhaustive: int | None) -> None:
        self.name, self.fingerprint = matcher.name, matcher.fingerprint
        self.n_pairs, self.queries, self.seconds = 0, 0, 0.0
        self._matcher, self._encode, self._exhaustive = matcher, encode, exhaustive

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        encoded = self._encode(pairs)
        start = time.perf_counter()
        with counted(self._matcher.model) as count:
            if self._exhaustive is None:
                fields = self._matcher.search(encoded, pairs)
            else:
                fields = [self._best_of_all(encoded, i, pair, self._exhaustive) for i, pair in enumerate(pairs)]
        matches = self._matcher.refine(encoded, fields, pairs)
        self.seconds += time.perf_counter() - start
        self.queries += count.queries
        self.n_pairs += len(pairs)
        return matches

    def _best_of_all(self, encoded: EncodedField, number: int, pair: ImagePair, side: int) -> Float[Tensor, "2 h w"]:
        """A field with the best of side x side positions at and around each query point, and zeros elsewhere."""
        assert pair.query_xy_px is not None
        height, width = pair.query_rgb.shape[:2]
        device = self._matcher.device
        field = torch.zeros(2, height, width, device=device)
        grid_norm = px_to_norm(pixel_grid((side, side)).view(-1, 2), (side, side)).to(device)
        inside_px = np.clip(pair.query_xy_px, 0, np.array([width - 1, height - 1], np.float32))
        query_xy_norm = px_to_norm(torch.from_numpy(inside_px), (height, width)).to(device)
        only = torch.zeros(len(inside_px), dtype=torch.int64, device=device)
        scorer = self._matcher.model.scorer(encoded.select(number, number + 1), only, query_xy_norm)
        for point, (column, row) in enumerate(np.rint(inside_px).astype(int)):
            best = scorer(grid_norm, torch.full((len(grid_norm),), point, device=device)).argmax()
            # a point that is no pixel's centre is read from up to four pixels
            rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            field[:, rows, columns] = grid_norm[best][:, None, None]
        return field


def _draw(rows: Sequence[Row]) -> bytes:
    """Figure 5 of the paper as a PNG: PCK@0.1 and time over iterations, a pair of lines for each data set."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    quality, cost = figure.subplots(1, 2)
    for dataset in dict.fromkeys(row.dataset for row in rows):
        chosen = [row for row in rows if row.dataset == dataset and row.variant in _ITERATIONS]
        iterations = [_ITERATIONS[row.variant] for row in chosen]
        quality.plot(iterations, [row.pck["0.1"] for row in chosen], marker="o", label=f"{dataset}, PCK@0.1")
        quality.plot(iterations, [row.pck["0.05"] for row in chosen], marker="s", label=f"{dataset}, PCK@0.05")
        cost.plot(iterations, [row.milliseconds for row in chosen], marker="o", label=dataset)
    quality.set_ylabel("PCK, %")
    cost.set_ylabel("milliseconds a pair, without encoding")
    for axes in (quality, cost):
        axes.set_xlabel("iterations of PatchMatch on every 4th pixel")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    quality.legend(loc="lower right")
    cost.legend(loc="upper left")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _rows(name: str, variant: _Variant, metrics: pa.Table) -> list[Row]:
    """One row per data set."""
    frame = metrics.to_pandas()
    overall = frame[(frame["group_kind"] == "all") & (frame["subset"] == "all")]
    return [
        Row(
            dataset=str(dataset),
            variant=name,
            settings=VARIANTS[name],
            pck={str(alpha): float(pck) for alpha, pck in zip(one["alpha"], one["pck_image"], strict=True)},
            n_pairs=int(one["n_pairs"].iloc[0]),
            n_failed=int(one["n_failed"].iloc[0]),
            queries=variant.queries / max(variant.n_pairs, 1),
            milliseconds=1000 * variant.seconds / max(variant.n_pairs, 1),
        )
        for dataset, one in overall.groupby("dataset")
    ]


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"| data set | variant | {' | '.join(f'PCK@{alpha}' for alpha in _ALPHAS)} | pairs | failed | queries | ms |",
        f"|---|---|{'---:|' * (len(_ALPHAS) + 4)}",
    ]
    for row in rows:
        cells = [
            *(row.dataset, row.variant),
            *(f"{row.pck[str(alpha)]:.1f}" for alpha in _ALPHAS),
            *(f"{row.n_pairs:,}", f"{row.n_failed:,}", f"{row.queries:,.0f}", harness.as_text(row.milliseconds)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", "Queries and milliseconds are per pair, without encoding."]


if __name__ == "__main__":
    sys.exit(main())
