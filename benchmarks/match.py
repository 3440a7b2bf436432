"""Whole pairs, stage by stage: encode, search, refine; for keypoints and for dense flow.

    python -m benchmarks.match --out benchmarks/results
    python -m benchmarks.match --device cuda --presets paper --precision bfloat16 --out benchmarks/results

Networks have random weights: speed does not depend on them. On two cores about 6 minutes; what would take longer than
`--longest` seconds a pair, by what the size before it took, is left out and named. On a GPU every stage is run once
before it is timed, so that compilation is not counted.
"""

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from benchmarks import harness
from benchmarks.inputs import image_pair, random_model
from benchmarks.queries import flop_per_query
from jobs.command import Names, run_command
from nemf.load import find_device
from nemf.matchers.nemf import NemfMatcher
from nemf.search.config import SearchConfig, search_options

_MODES = ("keypoints", "dense")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The networks, images and settings to time."""

    presets: Names = ("nemf-small", "paper")
    """Networks, see nemf.model.presets."""
    sizes: Names = ("256x256", "500x375", "1024x768")
    """Width x height of both images of a pair."""
    modes: Names = _MODES
    """Modes to time: keypoints, dense."""
    points: int = 10
    """Keypoints of a pair."""
    iterations: int = 10
    """Iterations of PatchMatch; the published code runs 20."""
    refine_steps: int = 10
    """Steps of the coordinate optimisation; the published code runs 20."""
    search: tuple[str, ...] = ()
    """Other settings of the search, name=value, see nemf.search.config.SearchConfig; such as grid_strides=8."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the field's matrix products; bfloat16 on CUDA only."""
    batch: int | None = None
    """Pairs matched together; by default 1 on a CPU, 8 on a GPU."""
    repeats: int = 3
    """Runs whose median counts; dense ones are run once on a CPU."""
    longest: float = 120
    """Maximum predicted seconds per pair; slower measurements are left out."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    out: str | None = None
    """Folder for match.md and match.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one network, size and mode; seconds are per pair."""

    preset: str
    size: str
    mode: str
    encode_s: float
    search_s: float
    refine_s: float
    floor_s: float | None
    """Seconds for 6 queries per pixel and iteration at the peak rate of matrix products; for dense flow only."""
    memory_mb: float
    """Peak memory of the process, or allocated on the GPU, network included."""

    @property
    def total_s(self) -> float:
        """Seconds for the whole pair."""
        return self.encode_s + self.search_s + self.refine_s


@harness.nothing_kept()
def run(config: Config) -> list[Row]:
    """Measure and print. Raises ValueError for unknown presets, sizes and modes."""
    sizes = {size: _hw(size) for size in config.sizes}
    if unknown := set(config.modes) - set(_MODES):
        raise ValueError(f"there is no mode {sorted(unknown)[0]!r}; there are: {', '.join(_MODES)}")
    device = find_device(config.device)
    load = harness.CompetingLoad()
    batch = config.batch or (1 if device.type == "cpu" else 8)
    peak_type = torch.float32 if device.type == "cpu" else torch.bfloat16
    peak = harness.matmul_peak(device, peak_type)
    rows, left_out = [], []
    for preset in config.presets:
        model = random_model(preset, device)
        settings: dict[str, Any] = {
            "patchmatch_steps": config.iterations,
            "refine_steps": config.refine_steps,
            "precision": config.precision,
        }
        search = SearchConfig(**search_options("--search", "&".join(config.search)) | settings)
        matcher = NemfMatcher(preset, model, device, search)
        seconds_per_pixel = 0.0
        for (size, hw), mode in itertools.product(sizes.items(), config.modes):
            predicted = seconds_per_pixel * hw[0] * hw[1]
            if mode == "dense" and predicted > config.longest:
                left_out.append(f"{preset}, {size}, {mode}: about {predicted:,.0f} s a pair")
                continue
            row = _measure(config, matcher, size, hw, mode, batch, flop_per_query(model) / peak)
            rows.append(row)
            if mode == "dense":
                seconds_per_pixel = row.total_s / (hw[0] * hw[1])
    setup = {
        **harness.describe(device),
        "busy with other work": f"{load.share():.0%}",
        "iterations": str(config.iterations),
        "refine steps": str(config.refine_steps),
        "search": ", ".join(config.search) or "as published",
        "precision": config.precision,
        "points": str(config.points),
        "pairs at once": str(batch),
        "peak": f"{peak / 1e12:,.2f} TFLOP/s ({str(peak_type).removeprefix('torch.')} matrix product, measured)",
    }
    lines = _table(rows)
    if left_out:
        lines += ["", "Left out: " + "; ".join(left_out) + "."]
    harness.write(config.out, "match", setup, lines, [asdict(row) for row in rows])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _hw(size: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
        raise ValueError(f"a size must be WIDTHxHEIGHT in pixels, such as 500x375; got {size!r}")
    width, height = size.split("x")
    return int(height), int(width)


def _measure(
    config: Config,
    matcher: NemfMatcher,
    size: str,
    hw: tuple[int, int],
    mode: str,
    batch: int,
    seconds_per_query_at_peak: float,
) -> Row:
    dense, device = mode == "dense", matcher.device
    pairs = [image_pair(hw, number, points=None if dense else config.points) for number in range(batch)]
    repeats = 0 if dense and device.type == "cpu" else config.repeats

    encode = harness.measure({"": lambda: matcher.encode(pairs)}, device, max(repeats, 1))[""]
    search = harness.measure({"": lambda: matcher.search(encode.answer, pairs)}, device, repeats)[""]
    refine = harness.measure({"": lambda: matcher.refine(encode.answer, search.answer, pairs)}, device, repeats)[""]
    return Row(
        preset=matcher.name,
        size=size,
        mode=mode,
        encode_s=encode.median / batch,
        search_s=search.median / batch,
        refine_s=refine.median / batch,
        floor_s=6 * hw[0] * hw[1] * config.iterations * seconds_per_query_at_peak if dense else None,
        memory_mb=max(stage.peak_mb for stage in (encode, search, refine)),
    )


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| network | size | mode | encode, ms | search, ms | refine, ms | all, ms | search / floor | memory, MB |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        stages = [row.encode_s, row.search_s, row.refine_s, row.total_s]
        cells = [
            *(row.preset, row.size, row.mode),
            *(harness.as_text(1000 * seconds) for seconds in stages),
            f"{row.search_s / row.floor_s:.2f}" if row.floor_s else "",
            f"{row.memory_mb:,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    floor = "The floor is the arithmetic of 6 queries per pixel and iteration at the peak of matrix products."
    return [*lines, "", floor] if any(row.floor_s for row in rows) else lines


if __name__ == "__main__":
    sys.exit(main())
