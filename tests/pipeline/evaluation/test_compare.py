from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.evaluation.compare import compare
from pipeline.evaluation.protocols import protocol
from schemas.matches import MATCHES
from schemas.pairs import PAIRS

SPAIR = protocol("spair")


def _pairs(n_pairs: int) -> pa.Table:
    """Pairs of one keypoint and a T of 100; cats and dogs in turn; every image is in one pair only."""
    rows = [
        {
            "pair_id": f"{number:03}",
            "category": ("cat", "dog")[number % 2],
            "dataset": "toy",
            "source_uri": f"{number}-a.jpg",
            "target_uri": f"{number}-b.jpg",
            "source_xy_px": [[9, 9]],
            "target_xy_px": [[9, 9]],
            "source_box_xyxy": [0, 0, 100, 50],
            "target_box_xyxy": [0, 0, 100, 50],
        }
        for number in range(n_pairs)
    ]
    return pa.Table.from_pylist(rows, PAIRS)


def _matches(pairs: pa.Table, right: np.ndarray, failed: tuple[int, ...] = ()) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, pair_id in enumerate(pairs["pair_id"].to_pylist()):
        row = {"pair_id": pair_id, "direction": "source_to_target", "attempt": 1, "matcher": "m", "fingerprint": "f"}
        answer = {"status": "ok", "query_xy_px": [[9, 9]], "reference_xy_px": [[9 if right[number] else 99, 9]]}
        rows.append({**row, **({"status": "error"} if number in failed else answer)})
    return pa.Table.from_pylist(rows, MATCHES)


def _one(table: pd.DataFrame, group: str = "all", average: str = "image") -> pd.Series:
    (index,) = table.index[(table["group"] == group) & (table["average"] == average)]
    return table.loc[index]


def test_the_difference_is_that_of_the_averages_by_group():
    pairs = _pairs(8)
    mine, other = np.arange(8) < 4, np.array([1, 1, 1, 1, 1, 0, 1, 0], bool)  # two more cats
    table = compare(_matches(pairs, mine), _matches(pairs, other), pairs, [SPAIR], [0.1])
    rows = {group: _one(table, group) for group in ("cat", "dog", "all")}
    assert {group: (row.pck, row.pck_other, row.difference, row.n_pairs) for group, row in rows.items()} == {
        "cat": (50, 100, 50, 4),
        "dog": (50, 50, 0, 4),
        "all": (50, 75, 25, 8),
    }
    assert _one(table, average="class").difference == 25
    assert _one(table, average="point").difference == 25


def test_runs_that_agree_on_most_pairs_differ_with_more_certainty_than_runs_that_do_not():
    """The same 10 points more: right where the run was and on ten others, or right on nearly all other pairs."""
    pairs = _pairs(100)
    mine = np.arange(100) < 50
    alike, unlike = np.arange(100) < 60, np.arange(100) >= 40
    rows = [
        _one(compare(_matches(pairs, mine), _matches(pairs, other), pairs, [SPAIR], [0.1])) for other in (alike, unlike)
    ]
    assert [row.difference for row in rows] == [pytest.approx(10), pytest.approx(10)]
    widths = [row.difference_high - row.difference_low for row in rows]
    # of ten pairs that differ the deviation is sqrt(.1 .9 / 100) = 3 points, of ninety sqrt((.9 - .01) / 100) = 9.4
    assert widths[0] == pytest.approx(2 * 1.96 * 3, rel=0.2)
    assert widths[1] == pytest.approx(2 * 1.96 * 9.4, rel=0.2)
    assert rows[0].difference_low > 0 > rows[1].difference_low


def test_a_run_does_not_differ_from_itself():
    pairs = _pairs(6)
    run = _matches(pairs, np.arange(6) < 2)
    table = compare(run, run, pairs, [SPAIR])
    assert (table[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)


def test_pairs_that_failed_in_either_run_are_wrong_or_excluded_from_both():
    pairs = _pairs(4)
    mine = _matches(pairs, np.ones(4, bool), failed=(0,))
    other = _matches(pairs, np.array([1, 0, 1, 1], bool), failed=(3,))
    wrong = _one(compare(mine, other, pairs, [SPAIR], [0.1]))
    assert (wrong.n_pairs, wrong.n_failed, wrong.n_failed_other, wrong.pck, wrong.pck_other) == (4, 1, 1, 75, 50)
    excluded = _one(compare(mine, other, pairs, [SPAIR], [0.1], "exclude"))
    assert (excluded.n_pairs, excluded.pck, excluded.pck_other) == (2, 100, 50)


def test_runs_of_unlike_directions_are_refused():
    pairs = _pairs(2)
    run = _matches(pairs, np.ones(2, bool))
    back = run.set_column(1, MATCHES.field("direction"), pa.array(["target_to_source"] * 2))
    with pytest.raises(ValueError, match="no direction in common"):
        compare(run, back, pairs, [protocol("pf-willow-bbox-kp")], [0.1])


def test_runs_of_other_pairs_or_several_matchers_are_refused():
    pairs = _pairs(4)
    run = _matches(pairs, np.ones(4, bool))
    ids = MATCHES.names.index("pair_id")
    foreign = run.set_column(ids, MATCHES.field("pair_id"), pa.array(["w", "x", "y", "z"]))
    with pytest.raises(ValueError, match="answer none of the manifest's pairs"):
        compare(run, foreign, pairs, [SPAIR], [0.1])
    prints = MATCHES.names.index("fingerprint")
    mixed = run.set_column(prints, MATCHES.field("fingerprint"), pa.array(["f", "f", "g", "g"]))
    with pytest.raises(ValueError, match="of 2 matchers"):
        compare(run, mixed, pairs, [SPAIR], [0.1])
