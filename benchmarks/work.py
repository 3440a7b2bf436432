"""Cost over work: keypoints of a pair, sides of its images, pairs of a run.

    python -m benchmarks.work --out benchmarks/results
    python -m benchmarks.work --pairs 100 1000 10000 100000 1000000 --out benchmarks/results

Keypoints and sides: CPU time of one pair in this process, on one thread, decoding included; the median of the repeats.
Pairs: CPU time of all processes of a whole `nemf match` with a matcher that does nothing, in slices of 4,096. Minutes
on two cores.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import harness
from benchmarks.inputs import picture
from benchmarks.memory_use import watch
from benchmarks.synthetic_manifest import write_manifest
from jobs.command import run_command
from nemf import Matcher, load_matcher
from nemf.matcher import squashed_side_of
from pipeline.matching import reduced
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

KEYPOINTS, SIDES, RUNS = "keypoints of a pair", "side of its images, px", "pairs of a run"
_HW = (375, 500)
_POINTS = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """The amounts of work."""

    matcher: str = "nemf-small"
    """Name of the matcher of keypoints and sides."""
    backbone_weights: str | None = None
    """Weights of the matcher's backbone, for matchers that take them."""
    keypoints: tuple[int, ...] = (1, 10, 100, 1000)
    """Keypoints of a pair of 500 x 375."""
    sides: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    """Sides of square JPEG images of a pair with 10 keypoints, in pixels."""
    pairs: tuple[int, ...] = (100, 1000, 10_000)
    """Pairs of a run of the matcher `identity`."""
    repeats: int = 3
    """Repeats of a pair, whose median counts; a run is run once."""
    out: str | None = None
    """Folder for work.md, work.json and work.png; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cost of one amount of work."""

    of: str
    amount: int
    cpu_seconds: float
    peak_mb: float | None = None
    """Of all processes of a run; None for a pair."""


@harness.nothing_kept()
def run(config: Config) -> list[Row]:
    """Measure and print."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        matcher = load_matcher(config.matcher, backbone_weights=config.backbone_weights, device="cpu")
        pairs = [(KEYPOINTS, n, _pair(Path(folder), f"k{n}", _HW, n)) for n in config.keypoints]
        pairs += [(SIDES, side, _pair(Path(folder), f"s{side}", (side, side), _POINTS)) for side in config.sides]
        seconds = _cpu_seconds(matcher, [pair for _, _, pair in pairs], config.repeats)
        rows += [Row(of=of, amount=n, cpu_seconds=s) for (of, n, _), s in zip(pairs, seconds, strict=True)]
        rows += [_run(Path(folder), n) for n in config.pairs]
    torch.set_num_threads(threads)
    setup = {**harness.describe(), "threads": "1", "matcher": config.matcher, "repeats": str(config.repeats)}
    harness.write(config.out, "work", setup, table(rows), [asdict(row) for row in rows])
    if config.out:
        Path(config.out, "work.png").write_bytes(_draw(rows))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _pair(folder: Path, name: str, image_hw: tuple[int, int], n_points: int) -> pa.Table:
    """A PAIRS table of one pair of JPEG files."""
    uris = []
    for number in (0, 1):
        uris.append(str(folder / f"{name}-{number}.jpg"))
        Image.fromarray(picture(image_hw, number)).save(uris[-1], quality=90)
    points = np.random.default_rng(0).uniform(0, image_hw[::-1], (n_points, 2)).tolist()
    row = {
        "pair_id": name,
        "source_uri": uris[0],
        "target_uri": uris[1],
        "source_xy_px": points,
        "target_xy_px": points,
    }
    return pa.Table.from_pylist([row], PAIRS)


def _cpu_seconds(matcher: Matcher, pairs: Sequence[pa.Table], repeats: int) -> Iterator[float]:
    """CPU seconds of each pair, as a worker of `nemf match` decodes and matches it; the pairs take turns."""
    options = MatchOptions()
    side = reduced.reduced_side(squashed_side_of(matcher), options.outputs, options.crop)

    def once(pair: pa.Table) -> float:
        start = time.process_time()
        for chunk in decode_rows(pair, None, reduced_side=side):
            rows = match_chunk(matcher, chunk, options, fingerprint="work", attempt=1)
            assert rows["status"].to_pylist() == ["ok"], rows.to_pylist()
        return time.process_time() - start

    once(pairs[0])
    turns = [[once(pair) for pair in pairs] for _ in range(repeats)]
    return map(statistics.median, zip(*turns, strict=True))


def _run(folder: Path, n_pairs: int) -> Row:
    pairs = write_manifest(folder / str(n_pairs), n_pairs, min(n_pairs, 1000))
    command = [sys.executable, "-m", "jobs.match", "--pairs", pairs, "--out", str(folder / f"run-{n_pairs}")]
    use = watch([*command, "--matcher", "identity", "--slice-pairs", "4096", "--device", "cpu"])
    assert use is not None
    return Row(of=RUNS, amount=n_pairs, cpu_seconds=use.cpu_seconds, peak_mb=use.peak_mb)


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        "| | amount | CPU seconds | CPU ms of each | further ones, CPU ms of each | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    before: Row | None = None
    for row in rows:
        further = ""
        if before is not None and before.of == row.of:
            seconds = row.cpu_seconds - before.cpu_seconds
            further = harness.as_text(1000 * seconds / (row.amount - before.amount))
        lines.append(
            f"| {row.of} | {row.amount:,} | {harness.as_text(row.cpu_seconds)} | "
            f"{harness.as_text(1000 * row.cpu_seconds / row.amount)} | {further} | "
            f"{'' if row.peak_mb is None else f'{row.peak_mb:,.0f}'} |"
        )
        before = row
    return lines


def _draw(rows: Sequence[Row]) -> bytes:
    """CPU seconds over the amount of work as a PNG."""
    kinds = list(dict.fromkeys(row.of for row in rows))
    figure = Figure(figsize=(3.5 * len(kinds), 3.2), layout="constrained")
    for axes, of in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        chosen = [row for row in rows if row.of == of]
        axes.plot([row.amount for row in chosen], [row.cpu_seconds for row in chosen], marker="o")
        axes.set_xlabel(of)
        axes.set_ylabel("CPU seconds")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


if __name__ == "__main__":
    sys.exit(main())
