"""What each option of the search buys: PCK, queries and time, on pairs with known keypoints.

    python -m benchmarks.quality --checkpoint runs/model --manifest pairs.parquet --out benchmarks/results

Needs a trained network. Choose options by validation pairs only: whoever chooses by test pairs reports a number that
holds for those alone. Every pair is encoded once and searched with every variant; on two cores that takes about 13 s a
pair of the small network.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from benchmarks import machine
from benchmarks.queries import counted
from jobs.command import run_command
from nemf import checkpoints
from nemf.load import find_device
from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.nemf import NemfMatcher, SearchConfig
from nemf.model.network import EncodedField
from pipeline.decode import decode_rows
from pipeline.evaluate import evaluate
from pipeline.manifest import INLINE_COLUMNS, read_pairs
from pipeline.match import match_chunk
from pipeline.options import MatchOptions
from pipeline.protocols import protocol
from schemas.pairs import PAIRS

_ALPHAS = (0.1, 0.05, 0.01)
_BATCH_PAIRS = 8
_PAIRS_AT_ONCE = 64
"""What is encoded of so many is kept until all variants have matched them: 17 MB a pair for a full-size network."""

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    **{f"{n} iterations": {"patchmatch_steps": n} for n in (0, 5, 10, 40)},
    "no refinement": {"refine_steps": 0},
    "10 refinement steps": {"refine_steps": 10},
    **{f"{n} times the learning rate": {"refine_lr": n * 3e-4} for n in (10, 30)},
    "whole gradient": {"positional_gradient": True},
    "whole gradient, 10 times the rate": {"positional_gradient": True, "refine_lr": 3e-3},
    "neighbour offset": {"neighbour_offset": True},
    "radius falls by a fifth": {"radius_decay": 0.8},
    "every 4th pixel first": {"grid_strides": (4, 1)},
    "every 4th pixel first, 5 iterations each": {"grid_strides": (4, 1), "patchmatch_steps": 5},
}
"""Settings of nemf.matchers.nemf.SearchConfig; all others are the published ones."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which network and which pairs."""

    checkpoint: str
    """Checkpoint folder of the network, path or URI."""
    manifest: str
    """PAIRS manifest, path or URI, of validation pairs with keypoints."""
    image_root: str | None = None
    """What image URIs in the manifest are relative to."""
    protocol: str = "spair"
    """How PCK is measured, see pipeline.protocols."""
    limit: int | None = None
    """Use the first pairs only."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    out: str | None = None
    """Folder for quality.md and quality.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant on one data set."""

    dataset: str
    variant: str
    settings: dict[str, Any]
    pck: dict[str, float]
    """Percent, average over images, by alpha."""
    n_pairs: int
    """Pairs that it is the average of."""
    n_failed: int
    """Those of them that failed; they count as wrong."""
    queries: float
    """Per pair of all data sets: scores that PatchMatch asked for."""
    milliseconds: float
    """Per pair of all data sets: PatchMatch and coordinate optimisation."""


def run(config: Config) -> list[Row]:
    """Match, evaluate, print. Raises ValueError and FileNotFoundError as loading, matching and evaluating do."""
    measure = protocol(config.protocol)
    device = find_device(config.device)
    watch = machine.Watch()
    model = checkpoints.load(config.checkpoint)
    pairs = read_pairs(config.manifest, PAIRS.names).slice(0, config.limit)
    if not pairs.num_rows:
        raise ValueError(f"{config.manifest}: there are no pairs to match")
    encode = _EncodeOnce(NemfMatcher("nemf", model, device))
    variants = {
        name: _Variant(NemfMatcher(name, model, device, SearchConfig(**settings)), encode)
        for name, settings in VARIANTS.items()
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
        for row in _rows(name, variant, evaluate(pa.concat_tables(matched[name]), truth, [measure], _ALPHAS))
    ]
    about = {
        **machine.describe(device),
        "busy with other work": f"{watch.others():.0%}",
        "checkpoint": config.checkpoint,
        "protocol": f"{config.protocol} ({measure.describe(options.directions[0])}; average over images)",
    }
    machine.write(config.out, "quality", about, _table(rows), [asdict(row) for row in rows])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


class _EncodeOnce:
    """The encoder all variants share: what it encoded it keeps until told to forget it."""

    def __init__(self, matcher: NemfMatcher) -> None:
        self._matcher = matcher
        self._known: dict[tuple[str, ...], EncodedField] = {}

    def __call__(self, pairs: Sequence[ImagePair]) -> EncodedField:
        ids = tuple(pair.pair_id for pair in pairs)
        if ids not in self._known:
            self._known[ids] = self._matcher.encode(pairs)
        return self._known[ids]

    def forget(self) -> None:
        """Make room for other pairs."""
        self._known.clear()


class _Variant(Matcher):
    """A matcher that leaves encoding to another, and notes its own time and queries."""

    def __init__(self, matcher: NemfMatcher, encode: _EncodeOnce) -> None:
        self.name, self.fingerprint = matcher.name, matcher.fingerprint
        self.n_pairs, self.queries, self.seconds = 0, 0, 0.0
        self._matcher, self._encode = matcher, encode

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        encoded = self._encode(pairs)
        start = time.perf_counter()
        with counted(self._matcher.model) as count:
            fields = self._matcher.search(encoded, pairs)
        matches = self._matcher.refine(encoded, fields, pairs)
        self.seconds += time.perf_counter() - start
        self.queries += count.queries
        self.n_pairs += len(pairs)
        return matches


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
            *(f"{row.n_pairs:,}", f"{row.n_failed:,}", f"{row.queries:,.0f}", machine.as_text(row.milliseconds)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", "Queries and milliseconds are per pair, without encoding."]


if __name__ == "__main__":
    sys.exit(main())
