"""A finished run of a matcher whose points are right with a known probability: its confidence."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from make import match_rows, pair_row, run_description, write_pairs

from pipeline.io.manifest import Manifest
from pipeline.runs.folder import Run, open_run
from pipeline.runs.parts import write_part

N_POINTS = 8
SIDE_PX = 100
LOG_ODDS = float(np.log(999))


def plant_run(
    folder: Path,
    n_pairs: int,
    *,
    seed: int = 0,
    name: str = "run",
    parts_of: int = 64,
    direction: str = "source_to_target",
    fingerprint: str = "own",
    manifest: str | None = None,
    finished: bool = True,
    **columns: Any,
) -> tuple[str, str]:
    """(run folder, manifest) of pairs of N_POINTS points over many images, in parts of so many pairs, in random order.

    A point is right (its answer is the truth) with the probability that is its confidence, otherwise half of the box's
    side off. columns: further columns of MATCHES rows, by function of the random generator.
    """
    rng = np.random.default_rng(seed)
    pairs, rows = [], []
    query, reference = direction.split("_to_")
    for number in range(n_pairs):
        points, truth = (rng.integers(0, SIDE_PX, (N_POINTS, 2)).astype(np.float32) for _ in range(2))
        confidence = rng.random(N_POINTS).astype(np.float32)
        wrong = rng.random(N_POINTS) >= confidence
        row = pair_row(
            f"pair-{number:05}",
            source_uri=f"{rng.integers(n_pairs)}.png",
            target_uri=f"{rng.integers(n_pairs)}.png",
            keypoint_id=[f"k{k}" for k in range(N_POINTS)],
            dataset="planted",
            source_box_xyxy=[0, 0, SIDE_PX, 50],
            target_box_xyxy=[0, 0, SIDE_PX, 50],
            **{f"{query}_xy_px": points.tolist(), f"{reference}_xy_px": truth.tolist()},
        )
        pairs.append(row)
        rows.append(
            {
                "pair_id": row["pair_id"],
                "direction": direction,
                "query_hw": [60, 110],
                "reference_hw": [60, 110],
                "query_xy_px": points.tolist(),
                "reference_xy_px": (truth + wrong[:, None] * [0, SIDE_PX / 2]).tolist(),
                "point_confidence": confidence.tolist(),
                **{column: value(rng) for column, value in columns.items()},
            }
        )
    manifest = manifest or write_pairs(folder / f"{name}.parquet", pairs, row_group_size=100)
    outputs = ["keypoints", "confidence", *(["cycle"] if "point_cycle_error_px" in columns else [])]
    description = run_description(manifest, direction=direction, outputs=outputs)
    run = open_run(str(folder / name), {**description, "matcher_fingerprint": fingerprint})
    for part in np.array_split(rng.permutation(n_pairs), max(1, n_pairs // parts_of)):
        write_part(run.out, match_rows(*(rows[number] for number in part)))
    if finished:
        finish(run, manifest)
    return run.out, manifest


def identity_share() -> dict[str, Any]:
    """The share of a signal in a calibration's file with which, and intercept -LOG_ODDS, the signal is the probability.

    Exactly so at multiples of .001 from .001 to .999.
    """
    knots = np.arange(1, 1000) / 1000
    ranks = (np.log(knots / (1 - knots)) / LOG_ODDS + 1) / 2
    return {
        "values": knots.tolist(),
        "ranks": ranks.clip(0, 1).tolist(),
        "weights": [2 * LOG_ODDS, 0, 0, 0, 0],
        "missing": 0,
    }


def finish(run: Run, manifest: str) -> None:
    """Write _SUCCESS of a run."""
    with Manifest(manifest) as opened:
        run.finish(run.count(opened.ids(), None))


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a manifest."""
    with Manifest(str(path)) as manifest:
        table: pa.Table = manifest.read()
    return table.to_pylist()
