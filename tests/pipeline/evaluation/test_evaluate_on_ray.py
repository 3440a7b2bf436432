import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make import run_description
from ray.exceptions import RayTaskError

from pipeline.cluster.connect import connected
from pipeline.evaluation.evaluate import count_unscored, evaluate, match_columns
from pipeline.evaluation.evaluate_on_ray import evaluate_on_ray
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.protocols import protocol
from pipeline.io.manifest import Manifest
from pipeline.runs.folder import open_run
from pipeline.runs.parts import read_matches, write_part
from pipeline.runs.selection import planned_pairs
from schemas.matches import MATCHES
from schemas.pairs import PAIRS

NAMES = ("spair", "spair-dagger", "spair-geometry-aware", "soco-cc", "cats", "pf-pascal", "kap", "geco")
PROTOCOLS = [protocol(name) for name in NAMES]
COLUMNS = match_columns(PROTOCOLS)

NUMBERS = ["pck_image", "pck_image_low", "pck_image_high", "pck_point", "pck_class_mean", "pck_class_mean_high"]
NUMBERS += [
    "ceiling_image",
    "ceiling_point",
    "jitter_image",
    "miss_image",
    "swap_point",
    "kap",
    "twin_point",
    "both_image",
]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with connected("local"):
        yield


@pytest.fixture
def run(tmp_path: Path) -> tuple[str, str]:
    """A manifest of two files and a run of several parts: 60 pairs of 12 images, some without keypoints, failed in one
    attempt or in all, or missing; both directions."""
    rng = np.random.default_rng(5)
    pairs: list[dict[str, Any]] = []
    rows: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for number in range(60):
        points = rng.uniform(0, 90, (number % 5, 2)).astype(np.float32)
        pair = {
            "pair_id": f"p{number}",
            "category": f"c{number % 3}",
            "dataset": "toy" if number % 4 else "other",
            "source_uri": f"{number % 12}.jpg",
            "target_uri": f"{number % 7}.jpg",
            "source_xy_px": points.tolist(),
            "target_xy_px": points.tolist(),
            "source_box_xyxy": [0, 0, 100, 50],
            "target_box_xyxy": [0, 0, 60, 80],
            "target_category": f"c{number % 5}" if number % 3 == 0 else None,
            "level": "near" if number % 2 else None,
            "source_other_boxes_xyxy": [[0, 0, 9, 9]] * (number % 2),
            "azimuth_difference": number % 4 if number % 8 < 4 else None,
            "keypoint_id": [str(k) for k in range(number % 5)],
            "source_all_keypoint_id": [str(k) for k in range(number % 5)],
            "target_all_keypoint_id": [str(k) for k in range(number % 5 + number % 2)],
            "target_all_xy_px": [*points.tolist(), [1, 1]][: number % 5 + number % 2],
            "mirror_keypoint_ids": [["0", "1"], ["2", "3"]],
            "geometry_groups": [["0", "1"]],
            "target_valid_xy_px": [[[x, y], [x + 30, y]] for x, y in points.tolist()],
            "occlusion": number % 4 if number % 2 else None,
            "seen_in_training": bool(number % 3) if number % 4 else None,
        }
        pairs.append(pair)
        for direction in ("source_to_target", "target_to_source") if number % 11 else ():
            row = {"pair_id": pair["pair_id"], "direction": direction, "matcher": "m", "fingerprint": "f"}
            row |= {"query_hw": [100, 120], "reference_hw": [100, 120], "query_xy_px": points.tolist()}
            row |= {"answer_grid_hw": [10, 12] if number % 3 else None}
            asked = pair["keypoint_id" if direction == "source_to_target" else "target_all_keypoint_id"]
            inside, outside = np.rint(rng.normal(20, 5, (2, len(asked), 3))).tolist()
            inside[number % 5 :] = [[None] * 3] * (len(asked) - number % 5)
            row |= {"scored_keypoint_id": asked, "score_inside": inside, "score_outside": outside, "score_lowest": 0.0}
            predicted = (points + rng.normal(0, 6, points.shape)).astype(np.float32).tolist()
            for attempt in (1, 2) if number % 6 == 0 else (1,):
                failed = number % 6 == 0 and (attempt == 1 or number == 6)
                why = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
                answer = why if failed else {"status": "ok", "reference_xy_px": predicted}
                rows[attempt].append({**row, "attempt": attempt, **answer})
    (tmp_path / "pairs").mkdir()
    for number in range(2):
        table = pa.Table.from_pylist(pairs[number * 30 : number * 30 + 30], PAIRS)
        pq.write_table(table, tmp_path / "pairs" / f"{number}.parquet", row_group_size=11)
    for of_attempt in rows.values():
        for first in range(0, len(of_attempt), 40):
            write_part(str(tmp_path / "run"), pa.Table.from_pylist(of_attempt[first : first + 40], MATCHES))
    return str(tmp_path / "run"), str(tmp_path / "pairs")


def test_it_has_the_numbers_of_one_process(run: tuple[str, str], tmp_path: Path):
    """METRICS of the first 40 pairs, those of an unfinished run; evaluating again replaces the earlier result."""
    matches, pairs = run
    open_run(matches, run_description(pairs, limit=40))
    options = {"alphas": (0.1, 0.05), "replicates": 30, "seed": 3}
    with Manifest(pairs) as manifest:
        planned, digest = planned_pairs(manifest, matches), manifest.digest()
    whole = evaluate(
        read_matches(matches, (*COLUMNS, "matcher")), planned, PROTOCOLS, **options, manifest_digest=digest
    )
    out = str(tmp_path / "metrics")

    summary, unscored = evaluate_on_ray(matches, pairs, out, PROTOCOLS, bucket_pairs=9, **options)

    assert len(list(Path(out).glob("pairs-*.parquet"))) > 2
    written = pd.read_parquet(out)
    keys = ["dataset", "protocol", "direction", "subset", "alpha", "group_kind", "group"]
    ours, theirs = (frame.sort_values(keys, ignore_index=True) for frame in (written, whole.to_pandas()))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9)
    assert whole.to_pandas()[NUMBERS].notna().any().all()
    assert load_metrics(out).equals(summary.to_pandas())
    assert summary.schema.metadata == whole.schema.metadata
    assert unscored == count_unscored(read_matches(matches, COLUMNS), planned)
    (Path(out) / "pairs-00099.parquet").write_bytes(b"of an earlier evaluation")
    again, _ = evaluate_on_ray(matches, pairs, out, PROTOCOLS, bucket_pairs=9, **options)
    assert again.equals(summary)
    assert pd.read_parquet(out).shape == written.shape


def test_a_folder_with_anything_else_is_left_alone(run: tuple[str, str], tmp_path: Path):
    matches, pairs = run
    before = sorted(Path(pairs).iterdir())
    with pytest.raises(ValueError, match=r"holds other files than METRICS .* such as 0\.parquet: give another --out"):
        evaluate_on_ray(matches, pairs, pairs, PROTOCOLS[:1], replicates=0)
    assert sorted(Path(pairs).iterdir()) == before


def test_matches_of_other_pairs_are_refused(run: tuple[str, str], tmp_path: Path):
    other = [{"pair_id": "other", "dataset": "toy", "source_xy_px": [[1, 1]], "target_xy_px": [[1, 1]]}]
    pq.write_table(pa.Table.from_pylist(other, PAIRS), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="answer none of the manifest's pairs"):
        evaluate_on_ray(run[0], str(tmp_path / "other.parquet"), str(tmp_path / "metrics"), PROTOCOLS[:1], replicates=0)


def test_a_pair_that_cannot_be_scored_is_named_as_by_one_process(run: tuple[str, str], tmp_path: Path):
    matches, pairs = run
    file = Path(pairs) / "1.parquet"
    rows = pq.read_table(file)
    column = rows.column_names.index("target_box_xyxy")
    pq.write_table(
        rows.set_column(column, PAIRS.field("target_box_xyxy"), pa.nulls(30, rows.schema[column].type)), file
    )
    with pytest.raises(
        RayTaskError, match=r"ValueError: pair p\d+ .*has no usable target_box_xyxy, which protocol spair needs"
    ):
        evaluate_on_ray(matches, pairs, str(tmp_path / "metrics"), PROTOCOLS[:1], bucket_pairs=9)


@pytest.mark.parametrize(("folder", "error"), [("nowhere", FileNotFoundError), ("run", ValueError)])
def test_what_cannot_be_evaluated_is_told_before_anything_runs(
    run: tuple[str, str], tmp_path: Path, folder: str, error: type[Exception]
):
    other = pa.Table.from_pylist(
        [
            {
                "pair_id": "p1",
                "direction": "source_to_target",
                "attempt": 1,
                "status": "ok",
                "matcher": "m",
                "fingerprint": "g",
            }
        ],
        MATCHES,
    )
    write_part(run[0], other)
    with pytest.raises(error, match=r"no matches at|are of 2 matchers"):
        evaluate_on_ray(str(tmp_path / folder), run[1], str(tmp_path / "metrics"), PROTOCOLS)


def test_a_worker_imports_neither_the_match_stream_nor_torch():
    script = (
        "import sys; import pipeline.cluster.connect, pipeline.evaluation.evaluate_on_ray; "
        "print([name for name in sys.modules if name == 'torch' or name.startswith('pipeline.matching')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
