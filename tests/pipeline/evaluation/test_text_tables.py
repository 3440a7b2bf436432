"""METRICS as text, in the words of their protocol."""

from typing import Any

import pandas as pd

from pipeline.evaluation.protocols import protocol
from pipeline.evaluation.text_tables import metrics_tables
from schemas.metrics import METRICS


def _metrics(name: str, *rows: dict[str, Any]) -> pd.DataFrame:
    """METRICS rows at alpha .1; group all with 12 points of 3 pairs unless a row says otherwise."""
    common = {"dataset": "toy", "protocol": name, "direction": "source_to_target", "subset": "all", "alpha": 0.1}
    counts = {"n_pairs": 3, "n_points": 12, "n_failed": 0, "group_kind": "all", "group": "all"}
    percents = {"pck_image": 50.0, "pck_point": 40.0}
    empty = dict.fromkeys(METRICS.names)
    return pd.DataFrame([{**empty, **common, **counts, **percents, **row} for row in rows])


def _lines(name: str, *rows: dict[str, Any]) -> list[list[str]]:
    text = metrics_tables(_metrics(name, *rows), [protocol(name)], "wrong", "text")
    return [line.split() for line in text.splitlines()]


def test_flow_is_scored_in_pixels():
    lines = _lines("tss", {"group_kind": "category", "group": "cars"}, {})
    assert ["pairs", "pixels", "failed", "FAcc@0.1"] in lines
    assert ["all", "pixels", "40.0"] in lines
    assert ["3", "pairs,", "12", "pixels;", "0", "pairs", "failed", "or", "missing"] in lines


def test_the_cases_of_left_and_right_have_rows_of_their_own():
    case = {"group_kind": "mirror_case", "n_pairs": 2, "n_points": 7, "twin_point": 10.0, "both_point": 3.0}
    lines = _lines(
        "geco",
        {"group_kind": "category", "group": "cat"},
        {"twin_point": 10.0, "both_point": 3.0},
        {**case, "group": "n11", "pck_point": 71.0},
        {**case, "group": "n10", "pck_point": 72.0},
    )
    assert ["n11", "keypoints,", "twin", "10.0"] in lines
    assert ["n11", "keypoints,", "both", "3.0"] in lines
    assert ["n11", "keypoints", "2", "7", "0", "71.0"] in lines
    assert ["n10", "keypoints", "2", "7", "0", "72.0"] in lines


def test_the_average_precision_is_the_mean_of_the_categories():
    lines = _lines("kap", {"group_kind": "category", "group": "cat"}, {"kap": 33.3})
    assert ["class", "mean,", "KAP", "33.3"] in lines
