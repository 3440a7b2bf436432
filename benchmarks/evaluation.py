"""Time and memory of evaluation: jobs.evaluate on synthetic runs of several sizes, the largest on Ray.

    python -m benchmarks.evaluation --out benchmarks/results
    python -m benchmarks.evaluation --all-columns

Pairs have 8 keypoints, 18 categories, and as many images as SPair-71k's test split has for its number of pairs. Prints
a Markdown table and writes it with the raw numbers as JSON. Minutes on two cores.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import harness
from benchmarks.memory_use import ResourceUse, run_and_measure
from jobs.command import run_command
from pipeline.evaluation.evaluate import LARGE
from pipeline.runs.parts import write_part
from schemas.matches import MATCHES
from schemas.pairs import PAIRS

_PART_PAIRS = 20_000
_KEYPOINTS = 8
_CATEGORIES = 18
_PAIRS_PER_IMAGE = 25
_PROTOCOLS = {False: "spair", True: "spair,spair-dagger,spair-geometry-aware"}
"""By Config.all_columns."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of the runs, and the output folder."""

    pairs: tuple[int, ...] = (12_234, 100_000, 1_000_000)
    """Numbers of pairs; 12,234 is SPair-71k's test split."""
    replicates: int = 1000
    """Number of bootstrap replicates."""
    all_columns: bool = False
    """Fill the columns of every labelled keypoint, geometry groups, levels and answer grids too, and score the
    protocols that read them."""
    out: str | None = None
    """Folder for evaluation.md and evaluation.json; default: print only."""


def run(config: Config) -> dict[int, ResourceUse]:
    """Measure every size, smallest first, and print the table."""
    measured = {n_pairs: _measure(n_pairs, config) for n_pairs in sorted(config.pairs)}
    setup = {
        **harness.describe(),
        "run": f"synthetic, {_KEYPOINTS} keypoints a pair, {_CATEGORIES} categories",
        "protocol": _PROTOCOLS[config.all_columns],
        "bootstrap replicates": str(config.replicates),
    }
    rows = [{"pairs": n_pairs, **asdict(used)} for n_pairs, used in measured.items()]
    harness.write(config.out, "evaluation", setup, _table(measured), rows)
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _measure(n_pairs: int, config: Config) -> ResourceUse:
    with tempfile.TemporaryDirectory() as folder:
        pairs, matches = write_synthetic_run(Path(folder), n_pairs, all_columns=config.all_columns)
        command = [sys.executable, "-m", "jobs.evaluate", "--matches", matches, "--pairs", pairs]
        options = ["--protocol", _PROTOCOLS[config.all_columns], "--replicates", str(config.replicates)]
        return run_and_measure([*command, *options, "--out", f"{folder}/metrics.parquet"])


def write_synthetic_run(folder: Path, n_pairs: int, *, all_columns: bool = False) -> tuple[str, str]:
    """Write a manifest, and a run folder whose predictions have normally distributed errors; returns both paths."""
    rng = np.random.default_rng(0)
    n_images = max(2, n_pairs // _PAIRS_PER_IMAGE)
    file = folder / "pairs.parquet"
    with pq.ParquetWriter(file, PAIRS) as writer:
        for start in range(0, n_pairs, _PART_PAIRS):
            count = min(_PART_PAIRS, n_pairs - start)
            number = np.arange(start, start + count)
            pair_id = pa.array([f"{each:09d}" for each in number])
            points = rng.uniform(0, 200, (count, _KEYPOINTS, 2)).astype(np.float32)
            predicted = points + rng.normal(0, 15, points.shape).astype(np.float32)
            images = [pa.array([f"{each}.jpg" for each in rng.integers(0, n_images, count)]) for _ in range(2)]
            box = _lists(pa.array(np.tile(np.array([0, 0, 200, 150], np.float32), count)), 4)
            writer.write_table(
                _filled(
                    PAIRS,
                    pair_id=pair_id,
                    dataset=pa.repeat(pa.scalar("synthetic"), count),
                    category=pa.array([f"category {each % _CATEGORIES:02}" for each in number]),
                    occlusion=pa.array(number % 4, pa.int8()),
                    source_uri=images[0],
                    target_uri=images[1],
                    source_xy_px=_points(points),
                    target_xy_px=_points(points),
                    source_box_xyxy=box,
                    target_box_xyxy=box,
                    **(_newer_pair_columns(number, points) if all_columns else {}),
                )
            )
            rows = _filled(
                MATCHES,
                pair_id=pair_id,
                direction=pa.repeat(pa.scalar("source_to_target"), count),
                attempt=pa.repeat(pa.scalar(1, pa.int32()), count),
                status=pa.repeat(pa.scalar("ok"), count),
                query_xy_px=_points(points),
                reference_xy_px=_points(predicted),
                matcher=pa.repeat(pa.scalar("synthetic"), count),
                fingerprint=pa.repeat(pa.scalar("synthetic"), count),
                **(_newer_match_columns(count) if all_columns else {}),
            )
            write_part(str(folder / "run"), rows)
    return str(file), str(folder / "run")


def _newer_pair_columns(number: np.ndarray, points: np.ndarray) -> dict[str, pa.Array]:
    """Columns of PAIRS from version 3 on: both images have all keypoints, which are in two groups of four."""
    count = len(number)
    ids = [str(each) for each in range(_KEYPOINTS)]
    id_lists = pa.array([ids] * count, PAIRS.field("keypoint_id").type)
    groups = [ids[: _KEYPOINTS // 2], ids[_KEYPOINTS // 2 :]]
    return {
        "level": pa.array([f"level {each % 3}" for each in number]),
        "azimuth_difference": pa.array(number % 5, pa.int8()),
        "keypoint_id": id_lists,
        "source_all_xy_px": _points(points),
        "target_all_xy_px": _points(points),
        "source_all_keypoint_id": id_lists,
        "target_all_keypoint_id": id_lists,
        "geometry_groups": pa.array([groups] * count, PAIRS.field("geometry_groups").type),
    }


def _newer_match_columns(count: int) -> dict[str, pa.Array]:
    """The images' sizes, and the answer grid of MATCHES from version 4 on."""
    size = pa.array([[150, 200]] * count, MATCHES.field("query_hw").type)
    return {"query_hw": size, "reference_hw": size, "answer_grid_hw": pa.array([[40, 40]] * count, size.type)}


def _filled(schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    """A table of the schema; other columns are null."""
    count = len(columns["pair_id"])
    arrays = [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _lists(values: pa.Array, size: int) -> pa.Array:
    """The values in lists of `size` each."""
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, size), pa.int32()), values)


def _points(xy_px: np.ndarray) -> pa.Array:
    """(P, K, 2) as a column of lists of points."""
    return _lists(_lists(pa.array(xy_px.ravel()), 2), xy_px.shape[1])


def _table(measured: dict[int, ResourceUse]) -> list[str]:
    lines = ["| pairs | | seconds | driver peak, MB | other processes peak, MB |", "|---:|---|---:|---:|---:|"]
    return lines + [
        f"| {n_pairs:,} | {'on Ray' if n_pairs >= LARGE else 'one process'} | {used.seconds:.1f} | "
        f"{used.driver_peak_mb:,.0f} | {used.workers_peak_mb:,.0f} |"
        for n_pairs, used in measured.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
