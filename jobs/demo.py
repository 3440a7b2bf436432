"""Run prepare, match, evaluate and report on real photographs with known answers.

    python -m jobs.demo --out demo

The photographs come inside scikit-image. Each is warped by smooth transformations that are known, so that every
keypoint's true place is known too. Needs no data, no download and no network; about a minute on two cores.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import skimage.data
from PIL import Image
from scipy.ndimage import map_coordinates

from jobs import evaluate, match, prepare, report
from jobs.command import MatcherName, run_command
from pipeline.io.uri_field import Uri

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket")
_LONG_SIDE = 400
_GRID = 5
_TABLE = "demo_pairs.csv"  # also what tells a demo's folder from others


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where, and how much."""

    out: Uri
    """Folder for everything the demo makes; what an earlier demo left there is removed."""
    matcher: MatcherName = "nemf-small"
    """Any matcher, see jobs.match."""
    warps: int = 6
    """Warped copies of each photograph."""
    seed: int = 0
    """Another seed draws other warps."""


def run(config: Config) -> str:
    """Make the pairs and send them through the four jobs; the report's path."""
    out = Path(config.out).resolve()
    _make_room(out)
    table = _write_pairs(out, config.warps, config.seed)
    pairs, run_folder, metrics, page = (
        str(out / name) for name in ("pairs.parquet", "run", "metrics.parquet", "report.html")
    )
    prepare.run(prepare.Config(dataset="table", root=str(out), annotations=str(table), out=pairs))
    match.run(match.Config(pairs=pairs, out=run_folder, matcher=config.matcher, slice_pairs=10))
    evaluate.run(evaluate.Config(matches=run_folder, pairs=pairs, protocol=("pf-willow-bbox-kp",), out=metrics))
    report.run(report.Config(metrics=metrics, matches=run_folder, pairs=pairs, out=page))
    print(f"\nthe report: {page}")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _make_room(out: Path) -> None:
    """An empty folder at `out`; never removes what is not a demo's."""
    if out.exists() and any(out.iterdir()) and not (out / _TABLE).exists():
        raise ValueError(f"{out} is not empty and was not made by the demo: give another --out")
    shutil.rmtree(out, ignore_errors=True)
    (out / "images").mkdir(parents=True)
    (out / _TABLE).touch()


def _write_pairs(out: Path, n_warps: int, seed: int) -> Path:
    """Photographs, their warped copies and the table of pairs, as a user might bring it: source = photograph."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in PHOTOGRAPHS:
        photograph = _photograph(name)
        source = out / "images" / f"{name}.png"
        Image.fromarray(photograph).save(source)
        for index in range(n_warps):
            to_source_px = _smooth_warp(rng, photograph.shape[:2])
            target = out / "images" / f"{name}-warp-{index}.png"
            Image.fromarray(_warped(photograph, to_source_px)).save(target)
            source_xy_px, target_xy_px = _keypoints(to_source_px, photograph.shape[:2])
            rows.append(
                {
                    "pair_id": f"{name}-{index}",
                    "source_uri": str(source.relative_to(out)),
                    "target_uri": str(target.relative_to(out)),
                    "category": name,
                    "dataset": "demo",
                    "source_xy_px": _as_text(source_xy_px),
                    "target_xy_px": _as_text(target_xy_px),
                }
            )
    table = out / _TABLE
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def _photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image, (H, W, 3) uint8, its long side _LONG_SIDE."""
    pixels = skimage.data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(skimage.data, name)()
    image = Image.fromarray(pixels)
    image.thumbnail((_LONG_SIDE, _LONG_SIDE))
    return np.asarray(image)


def _smooth_warp(rng: np.random.Generator, hw: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A random map from target pixels (..., 2) to source pixels: turn, scale, shift, and a slow wave on top."""
    height, width = hw
    size = np.array([width, height])
    angle = rng.uniform(-0.25, 0.25)
    scale = rng.uniform(0.85, 1.15)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-0.05, 0.05, 2) * size
    phase = rng.uniform(0, 2 * np.pi, 2)
    waves = rng.uniform(0.5, 1.0, 2)

    def to_source_px(target_xy_px: np.ndarray) -> np.ndarray:
        centred = target_xy_px - size / 2
        wave = 0.02 * size * np.sin(2 * np.pi * waves * target_xy_px[..., ::-1] / size[::-1] + phase)
        return centred @ turn.T + size / 2 + shift + wave

    return to_source_px


def _warped(photograph: np.ndarray, to_source_px: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    height, width = photograph.shape[:2]
    y, x = np.mgrid[:height, :width]
    source_xy_px = to_source_px(np.stack([x, y], axis=-1).astype(np.float64))
    places_yx = [source_xy_px[..., 1], source_xy_px[..., 0]]
    channels = [map_coordinates(photograph[..., c], places_yx, order=1, mode="reflect") for c in range(3)]
    return np.stack(channels, axis=-1)


def _keypoints(to_source_px: Callable[[np.ndarray], np.ndarray], hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(source, target) points (K, 2): a grid in the target and where it comes from, where that is in the photograph."""
    height, width = hw
    x, y = np.meshgrid(np.linspace(0.1, 0.9, _GRID) * (width - 1), np.linspace(0.1, 0.9, _GRID) * (height - 1))
    target_xy_px = np.stack([x.ravel(), y.ravel()], axis=-1)
    source_xy_px = to_source_px(target_xy_px)
    inside = ((source_xy_px >= 0) & (source_xy_px <= [width - 1, height - 1])).all(axis=1)
    return source_xy_px[inside], target_xy_px[inside]


def _as_text(xy_px: np.ndarray) -> str:
    return ";".join(f"{x:.3f},{y:.3f}" for x, y in xy_px)


if __name__ == "__main__":
    sys.exit(main())
