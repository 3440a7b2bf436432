"""Bytes and error of a stored flow, compared with other encodings of the same flow.

    python -m benchmarks.flow_storage --pairs pairs.parquet --out benchmarks/results

Matches some pairs of a manifest and encodes their flows in each way. The PNG has KITTI's 16 bits in steps of 1/64 px,
both channels one below the other as one grey image. Prints a Markdown table and writes it with the raw numbers as JSON.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks import harness
from jobs.command import run_command
from nemf import load_matcher
from nemf.matcher import ImagePair
from pipeline.io.manifest import read_pairs
from pipeline.matching.decode import decode_rows
from pipeline.runs.flow_codec import decode_flow, encode_flow
from schemas.pairs import PAIRS


@dataclass(frozen=True, kw_only=True)
class Config:
    """The manifest and the matcher that the flows come from."""

    pairs: str
    """PAIRS manifest, path or URI."""
    image_root: str | None = None
    """Folder, path or URI, that relative image URIs of the manifest are below."""
    matcher: str = "nemf-small"
    """Name of the matcher."""
    limit: int = 32
    """Number of pairs, drawn from the manifest."""
    out: str | None = None
    """Folder for flow_storage.md and flow_storage.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One encoding."""

    encoding: str
    bytes_a_pair: float
    bytes_a_pixel: float
    largest_error_px: float
    milliseconds: float
    """Milliseconds to write and to read one pair's flow."""


def run(config: Config) -> list[Measured]:
    """Encode the flows in every way, and print the table."""
    flows_px = _flows(config)
    measured = [_measure(name, encode, flows_px) for name, encode in _ENCODINGS.items()]
    longest = max(float(np.abs(flow_px).max()) for flow_px in flows_px)
    setup = {**harness.describe(), "flows": f"{len(flows_px)} of {config.matcher}, at most {longest:.0f} px"}
    harness.write(config.out, "flow_storage", setup, _table(measured), [asdict(m) for m in measured])
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _flows(config: Config) -> list[np.ndarray]:
    rows = read_pairs(config.pairs, PAIRS.names)
    chosen = np.random.default_rng(0).permutation(rows.num_rows)[: config.limit]
    matcher = load_matcher(config.matcher)
    flows_px = []
    for chunk in decode_rows(rows.take(pa.array(chosen)), config.image_root):
        images = [[chunk.images[pair[f"{side}_key"]].rgb for side in ("source", "target")] for pair in chunk.pairs]
        requests = [
            ImagePair(query_rgb=query, reference_rgb=reference, dense=True)
            for query, reference in images
            if query is not None and reference is not None
        ]
        flows_px += [match.flow_px for match in matcher.match_batch(requests) if match.flow_px is not None]
    return flows_px


def _ours(flow_px: np.ndarray) -> tuple[int, np.ndarray]:
    row = encode_flow(flow_px)
    return len(row["flow"]), decode_flow(row)


def _floats(kind: type[np.floating], codec: str | None) -> Callable[[np.ndarray], tuple[int, np.ndarray]]:
    def encode(flow_px: np.ndarray) -> tuple[int, np.ndarray]:
        rounded = flow_px.astype(kind)
        stored = pa.compress(rounded.tobytes(), codec=codec, asbytes=True) if codec else rounded.tobytes()
        return len(stored), rounded.astype(np.float64)

    return encode


def _png(flow_px: np.ndarray) -> tuple[int, np.ndarray]:
    steps = np.rint(flow_px.astype(np.float64) * 64 + 2**15).clip(0, 2**16 - 1).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(steps.transpose(2, 0, 1).reshape(-1, steps.shape[1])).save(file, "PNG")
    return len(file.getvalue()), (steps.astype(np.float64) - 2**15) / 64


_ENCODINGS: dict[str, Callable[[np.ndarray], tuple[int, np.ndarray]]] = {
    "float32": _floats(np.float32, None),
    "float32, zstd": _floats(np.float32, "zstd"),
    "float16": _floats(np.float16, None),
    "float16, zstd": _floats(np.float16, "zstd"),
    "16-bit PNG, 1/64 px": _png,
    "MATCHES": _ours,
}


def _measure(
    name: str, encode: Callable[[np.ndarray], tuple[int, np.ndarray]], flows_px: Sequence[np.ndarray]
) -> Measured:
    start = time.perf_counter()
    encoded = [encode(flow_px) for flow_px in flows_px]
    seconds = time.perf_counter() - start
    n_bytes = sum(size for size, _ in encoded)
    return Measured(
        encoding=name,
        bytes_a_pair=n_bytes / len(flows_px),
        bytes_a_pixel=n_bytes / sum(flow_px.size // 2 for flow_px in flows_px),
        largest_error_px=max(
            float(np.abs(read - flow).max()) for (_, read), flow in zip(encoded, flows_px, strict=True)
        ),
        milliseconds=1000 * seconds / len(flows_px),
    )


def _table(measured: Sequence[Measured]) -> list[str]:
    return [
        "| encoding | kB a pair | bytes a pixel | largest error, px | ms to write and read |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {m.encoding} | {m.bytes_a_pair / 1000:,.0f} | {m.bytes_a_pixel:.2f} | {m.largest_error_px:.4f} | "
            f"{m.milliseconds:.0f} |"
            for m in measured
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
