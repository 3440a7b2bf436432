"""FAcc on planted flows against a plain loop, and on the official kit's results against its scores."""

import csv
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluation.compare import compare
from pipeline.evaluation.evaluate import count_unscored, evaluate, match_columns
from pipeline.evaluation.flow_errors import FlowErrors, flow_errors, resize_flow
from pipeline.evaluation.protocols import PROTOCOLS, Protocol
from pipeline.io.flo import is_known, read_flo
from pipeline.runs.flow_codec import decode_flow, encode_flow
from schemas.matches import DIRECTIONS, MATCHES
from schemas.pairs import PAIRS

_TSS = PROTOCOLS["tss"]
_ALPHAS = (0.01, 0.05, 0.1)
_FORTH, _BACK = DIRECTIONS
_KIT = Path(os.environ.get("NEMF_SHARED", "absent"), "data", "TSS-kit")


def _write_flo(file: Path, flow_px: np.ndarray) -> str:
    height, width = flow_px.shape[:2]
    file.write_bytes(struct.pack("<fii", 202021.25, width, height) + flow_px.astype("<f4").tobytes())
    return str(file)


def _match(pair_id: str, direction: str, flow_px: np.ndarray | None, reference_hw: tuple[int, int]) -> dict[str, Any]:
    row = {"pair_id": pair_id, "direction": direction, "attempt": 0, "status": "ok", "matcher": "m", "fingerprint": "f"}
    row |= {"query_hw": None if flow_px is None else flow_px.shape[:2], "reference_hw": reference_hw}
    return row | ({} if flow_px is None else encode_flow(flow_px))


def _matches(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), MATCHES)


def _pairs(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"dataset": "tss", **row} for row in rows], PAIRS)


def _plain_share(flow_px: np.ndarray, truth_px: np.ndarray, other_hw: tuple[int, int], alpha: float) -> float:
    correct = known = 0
    for row, true_row in zip(flow_px, truth_px, strict=True):
        for (u, v), (true_u, true_v) in zip(row, true_row, strict=True):
            if abs(true_u) < 1e9 and abs(true_v) < 1e9:
                known += 1
                distance = math.sqrt((float(u) - float(true_u)) ** 2 + (float(v) - float(true_v)) ** 2)
                correct += distance <= alpha * max(other_hw)
    return correct / known


def _planted(folder: Path) -> tuple[pa.Table, pa.Table, dict[str, list[float]]]:
    """Matches and pairs of three sizes, and the shares at .05 of each direction by the plain loop."""
    rng = np.random.default_rng(5)
    matches, pairs, shares = [], [], {direction: [] for direction in DIRECTIONS}
    for number, (source_hw, target_hw) in enumerate([((20, 30), (24, 50)), ((31, 17), (40, 40)), ((9, 9), (60, 8))]):
        pair: dict[str, Any] = {"pair_id": f"p{number}", "mirrored": number == 1, "flow_format": "flo"}
        for direction, hw, other_hw in ((_FORTH, source_hw, target_hw), (_BACK, target_hw, source_hw)):
            truth_px = rng.normal(0, 3, (*hw, 2)).astype(np.float32)
            row = _match(pair["pair_id"], direction, truth_px + rng.normal(0, 1.5, (*hw, 2)), other_hw)
            truth_px[rng.random(hw) < 0.4] = 1e10
            side = direction.split("_")[0]
            pair[f"{side}_flow_uri"] = _write_flo(folder / f"{number}-{side}.flo", truth_px)
            shares[direction].append(_plain_share(decode_flow(row), truth_px, other_hw, 0.05))
            matches.append(row)
        pairs.append(pair)
    return _matches(*matches), _pairs(*pairs), shares


def test_planted_flows_score_as_a_plain_loop_says(tmp_path: Path) -> None:
    matches, pairs, shares = _planted(tmp_path)
    metrics = evaluate(matches.select(match_columns([_TSS])), pairs, [_TSS], _ALPHAS, replicates=20).to_pandas()
    rows = metrics[(metrics["alpha"] == 0.05) & (metrics["group_kind"] == "all")]
    found = rows.set_index(["direction", "subset"])["pck_image"]
    assert len(found) == 4
    for direction, by_pair in shares.items():
        assert found[direction, "all"] == pytest.approx(100 * np.mean(by_pair), abs=1e-9)
        assert found[direction, "without_flip"] == pytest.approx(50 * (by_pair[0] + by_pair[2]), abs=1e-9)
    single = metrics[(metrics["alpha"] == 0.05) & (metrics["group_kind"] == "pair") & (metrics["subset"] == "all")]
    assert single["pck_image"].to_numpy() == pytest.approx(100 * np.concatenate([*shares.values()]), abs=1e-9)


def test_a_run_differs_from_itself_by_nothing(tmp_path: Path) -> None:
    matches, pairs, shares = _planted(tmp_path)
    rows = compare(matches, matches, pairs, [_TSS], (0.05,), replicates=20)
    assert (rows["difference"] == 0).all()
    image = rows[(rows["average"] == "image") & (rows["subset"] == "all") & (rows["direction"] == _FORTH)]
    assert image["pck"].iloc[0] == pytest.approx(100 * np.mean(shares[_FORTH]), abs=1e-9)


def _one(folder: Path, truth_px: np.ndarray, *rows: dict[str, Any], **pair: Any) -> FlowErrors:
    uri = _write_flo(folder / "truth.flo", truth_px)
    return flow_errors(_matches(*rows), _pairs({"pair_id": "p", "source_flow_uri": uri, **pair}), _TSS, _FORTH, _ALPHAS)


def test_t_is_of_the_other_image_and_its_end_is_correct(tmp_path: Path) -> None:
    truth_px = np.zeros((1, 3, 2))
    flow_px = np.array([[[5.0, 0], [3, 4], [5 + 2**-6, 0]]])
    errors = _one(tmp_path, truth_px, _match("p", _FORTH, flow_px, (100, 20)))
    assert errors.n_correct(0.05).tolist() == [2]
    assert errors.n_points.tolist() == [3]


def test_pixels_of_unknown_truth_do_not_count(tmp_path: Path) -> None:
    truth_px = np.zeros((1, 4, 2))
    truth_px[0, 1:] = [[1e10, 1e10], [1e9, 0], [0, 1e9]]
    errors = _one(tmp_path, truth_px, _match("p", _FORTH, np.zeros((1, 4, 2)), (10, 10)))
    assert (errors.n_points.tolist(), errors.n_correct(0.01).tolist()) == ([1], [1])


def test_a_failed_or_missing_pair_counts_its_known_pixels_as_wrong(tmp_path: Path) -> None:
    failed = {**_match("p", _FORTH, None, (10, 10)), "status": "error"}
    for rows in ((), (failed,)):
        errors = _one(tmp_path, np.zeros((2, 3, 2)), *rows)
        assert errors.failed.tolist() == [True]
        assert errors.n_counted("wrong").tolist() == [6]
        assert errors.n_counted("exclude").tolist() == [0]
        assert errors.n_correct(0.1).tolist() == [0]


def test_a_pair_without_true_flow_has_no_points() -> None:
    errors = flow_errors(_matches(), _pairs({"pair_id": "p"}), _TSS, _FORTH, _ALPHAS)
    assert (errors.n_points.tolist(), errors.failed.tolist()) == ([0], [False])


def test_flow_pairs_are_not_said_to_be_unscored(tmp_path: Path) -> None:
    matches, pairs, _ = _planted(tmp_path)
    assert count_unscored(matches, pairs).n_without_keypoints == 0


def test_an_absent_or_damaged_truth_names_pair_and_file(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.flo"
    damaged.write_bytes(b"PIEH")
    for file in (damaged, tmp_path / "absent.flo"):
        with pytest.raises(ValueError, match=rf"pair p: its true flow cannot be read: .*{file.name}"):
            flow_errors(_matches(), _pairs({"pair_id": "p", "source_flow_uri": str(file)}), _TSS, _FORTH, _ALPHAS)


def test_a_run_without_flow_is_told_to_match_with_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--outputs flow"):
        _one(tmp_path, np.zeros((2, 3, 2)), _match("p", _FORTH, None, (10, 10)))


def test_a_flow_between_images_of_half_the_size_is_resized_first(tmp_path: Path) -> None:
    # end points double with the size: 2 px are 4 px; the kit's grid starts at 0, pixel 1 of 4 lies at 0.5 of 2
    small_px = np.full((2, 2, 2), 2.0)
    np.testing.assert_allclose(resize_flow(small_px, (10, 10), (4, 4), (20, 20)), 4.0)
    other_uri = _write_flo(tmp_path / "other.flo", np.zeros((20, 20, 2)))
    row = _match("p", _FORTH, small_px, (10, 10))
    errors = _one(tmp_path, np.full((4, 4, 2), 4.0), row, target_flow_uri=other_uri)
    assert errors.n_correct(0.01).tolist() == [16]


def test_resizing_interpolates_and_repeats_the_border() -> None:
    flow_px = np.array([[[0.0, 0], [4, 0]]])
    resized_px = resize_flow(flow_px, (1, 2), (1, 4), (1, 2))
    # interpolated 0, 1, 3, 4, and the grid moves by x / 2 - x
    np.testing.assert_allclose(resized_px[0, :, 0], [0, 0.5, 2, 2.5])


def test_a_flow_protocol_of_other_choices_is_refused() -> None:
    with pytest.raises(ValueError, match="flow is scored in original pixels"):
        Protocol(name="mine", directions=(_FORTH,), base="box", of="flow")


def _official(subset: str) -> tuple[str, list[float], list[float]]:
    """The pair, and the scores T1..T50 of both directions."""
    with (_KIT / "Results" / subset / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [[float(row[f"T{t}"]) for t in range(1, 51)] for row in rows[:2]]
    return rows[0]["Row"].removesuffix("_1to2"), scores[0], scores[1]


@pytest.mark.skipif(not _KIT.exists(), reason="needs the TSS evaluation kit in NEMF_SHARED")
@pytest.mark.parametrize("subset", ["FG3DCar", "JODS", "PASCAL"])
def test_the_official_results_have_the_official_scores(subset: str) -> None:
    pair, *official = _official(subset)
    flow, truth = (
        [read_flo(str(_KIT / folder / subset / pair / f"flow{n}.flo")) for n in (1, 2)]
        for folder in ("Results", "Dataset")
    )
    for here, there, scores in ((0, 1, official[0]), (1, 0, official[1])):
        known = is_known(truth[here])
        assert is_known(flow[here]).all()
        resized_px = resize_flow(
            flow[here].astype(np.float64), flow[there].shape[:2], truth[here].shape[:2], truth[there].shape[:2]
        )
        error_px = np.linalg.norm((resized_px - truth[here])[known], axis=1)
        shares = [np.mean(error_px <= t / 100 * max(truth[there].shape[:2])) for t in range(1, 51)]
        np.testing.assert_allclose(shares, scores, atol=3 / known.sum())
        rows = _matches(_match("p", _FORTH, flow[here], flow[there].shape[:2]))
        uris = [str(_KIT / "Dataset" / subset / pair / f"flow{n + 1}.flo") for n in (here, there)]
        pairs = _pairs({"pair_id": "p", "source_flow_uri": uris[0], "target_flow_uri": uris[1]})
        errors = flow_errors(rows, pairs, _TSS, _FORTH, (0.05,))
        # stored flow is rounded to 1/64 px
        assert errors.n_correct(0.05)[0] / errors.n_points[0] == pytest.approx(scores[4], abs=1e-3)
