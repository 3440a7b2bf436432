"""Fetches, decodes and encoder passes per pair, exact counts.

    python -m benchmarks.decode_counts --pairs spair.parquet --out benchmarks/results

Plans the manifest and decodes every slice as jobs.match does, then computes the features of each pair's images as the
matchers of one process do, counting. Compared with the order of the manifest, and with pairs encoded eight at a time in
that order and nothing kept between.
Prints a Markdown table and writes it with the raw numbers as JSON.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from unittest import mock

import pyarrow as pa
import torch
from torch import Tensor

from benchmarks import harness
from jobs.command import run_command
from nemf.matcher import RGB
from nemf.matchers.feature_cache import FeatureCache, KeptFeatures
from pipeline.io.images import decode_reduced, fetch_image
from pipeline.io.manifest import Manifest, read_rows
from pipeline.matching.decode import decode_rows
from pipeline.matching.plan import make_plan
from schemas.pairs import PAIRS

_FEATURES = torch.zeros(1).expand(192, 32, 32)
"""Features of an image, of the size of nemf-small's, so that the cache drops them as it does for nemf-small."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The manifest and the sizes of slices."""

    pairs: str
    """PAIRS manifest, path or URI."""
    image_root: str | None = None
    """Folder, path or URI, that relative image URIs of the manifest are below."""
    slice_pairs: tuple[int, ...] = (16, 128, 512)
    """Sizes of slices."""
    out: str | None = None
    """Folder for decode_counts.md and decode_counts.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Counts per pair."""

    order: str
    slice_pairs: int
    fetches: float
    decodes: float
    passes: float
    """Number of images that an encoder computes."""


def run(config: Config) -> list[Measured]:
    """Count, and print the table."""
    measured = [_count("manifest, pair by pair", config, 1, _in_manifest_order(config.pairs, 1), batch_pairs=1)]
    for n in config.slice_pairs:
        measured += [
            _count("manifest, encoded by eight", config, n, _in_manifest_order(config.pairs, n), batch_pairs=8),
            _count("jobs.match", config, n, _planned(config.pairs, n)),
        ]
    with Manifest(config.pairs) as manifest:
        setup = {"manifest": f"{manifest.n_pairs:,} pairs"}
    harness.write(config.out, "decode_counts", setup, _table(measured), [asdict(m) for m in measured])
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _in_manifest_order(pairs: str, slice_pairs: int) -> Iterator[pa.Table]:
    with Manifest(pairs) as manifest:
        yield from (window.rows for window in manifest.windows(PAIRS.names, slice_pairs))


def _planned(pairs: str, slice_pairs: int) -> Iterator[pa.Table]:
    nothing_done = pa.chunked_array([], pa.string())
    with Manifest(pairs) as manifest:
        plan = make_plan(manifest, manifest.ids(), nothing_done, slice_pairs=slice_pairs)
    for piece in plan.slices:
        yield from read_rows(piece.file, piece.row_group, piece.rows)


def _count(
    order: str, config: Config, slice_pairs: int, slices: Iterator[pa.Table], batch_pairs: int | None = None
) -> Measured:
    """batch_pairs: pairs that share features; all for None, as far as matchers keep them."""
    counts: Counter[str] = Counter()
    kept = KeptFeatures()

    def encode(images: Sequence[RGB]) -> list[list[Tensor]]:
        counts["passes"] += len(images)
        return [[_FEATURES]] * len(images)

    with (
        mock.patch("pipeline.matching.decode.fetch_image", wraps=fetch_image) as fetch,
        mock.patch("pipeline.matching.decode.decode_reduced", wraps=decode_reduced) as decoded,
    ):
        for rows in slices:
            for chunk in decode_rows(rows, config.image_root):
                counts["pairs"] += len(chunk.pairs)
                n_together = batch_pairs or len(chunk.pairs)
                for first in range(0, len(chunk.pairs), n_together):
                    cache = FeatureCache(encode, KeptFeatures() if batch_pairs else kept)
                    for pair in chunk.pairs[first : first + n_together]:
                        images = [chunk.images[pair[f"{side}_key"]].rgb for side in ("source", "target")]
                        cache.encode([rgb for rgb in images if rgb is not None])
        return Measured(
            order=order,
            slice_pairs=slice_pairs,
            fetches=fetch.call_count / counts["pairs"],
            decodes=decoded.call_count / counts["pairs"],
            passes=counts["passes"] / counts["pairs"],
        )


def _table(measured: Sequence[Measured]) -> list[str]:
    return [
        "| order | pairs a slice | fetches a pair | decodes a pair | encoder passes a pair |",
        "|---|---:|---:|---:|---:|",
        *(f"| {m.order} | {m.slice_pairs} | {m.fetches:.2f} | {m.decodes:.2f} | {m.passes:.2f} |" for m in measured),
    ]


if __name__ == "__main__":
    sys.exit(main())
