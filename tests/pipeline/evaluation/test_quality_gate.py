from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.evaluation.quality_gate import parse_threshold
from schemas.metrics import METRICS


def _row(group: str, pck: float, **more: Any) -> dict[str, Any]:
    kind = "all" if group == "all" else "category"
    row = {"dataset": "toy", "protocol": "spair", "direction": "source_to_target", "subset": "all", "alpha": 0.1}
    row |= {"group_kind": kind, "group": group, "n_pairs": 2, "n_points": 2, "n_failed": 0}
    row |= {"pck_image": pck, "pck_point": pck + 10, "pck_class_mean": pck + 20 if kind == "all" else None}
    return {**row, **more}


@pytest.fixture
def metrics() -> pd.DataFrame:
    rows = [_row("all", 50.0), _row("big cat", 30.0), _row("wolf", 0.0, n_pairs=0), _row("all", 9.0, protocol="nemf")]
    return pa.Table.from_pylist(rows, METRICS).to_pandas()


@pytest.mark.parametrize(
    "text",
    [
        "spair image .1 all >= 50",
        "spair point 0.1 all >= 60",
        "spair class 1e-1 all > 69.9",
        "spair image .1 big cat >= 30",
        "  nemf image .1 all>=9 ",
    ],
)
def test_what_is_reached_is_met(metrics: pd.DataFrame, text: str):
    assert parse_threshold(text).shortfalls(metrics) == []


def test_what_is_not_reached_is_told_with_what_there_is(metrics: pd.DataFrame):
    assert parse_threshold("spair image .1 all > 50").shortfalls(metrics) == [
        "spair image .1 all > 50: toy, source to target, has 50.00"
    ]
    (line,) = parse_threshold("spair image .1 wolf >= 0").shortfalls(metrics)
    assert line.endswith("has nothing to average over")


def test_a_class_average_of_nothing_is_not_met(metrics: pd.DataFrame):
    nothing = metrics.assign(n_pairs=0, pck_class_mean=float("nan"))
    (line,) = parse_threshold("spair class .1 all >= 50").shortfalls(nothing)
    assert line.endswith("has nothing to average over")


def test_a_category_that_is_called_all_is_not_the_average(metrics: pd.DataFrame):
    named = pd.concat([metrics, metrics[metrics["group"] == "big cat"].assign(group="all")])
    assert parse_threshold("spair image .1 all >= 50").shortfalls(named) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cats image .1 all >= 50", "protocol cats is not evaluated; evaluated are: spair, nemf"),
        ("nemf image .2 all >= 50", r"alpha 0\.2 is not evaluated; evaluated are: 0\.1, 0\.05"),
    ],
)
def test_what_will_not_be_measured_is_refused_before(text: str, message: str):
    parse_threshold("nemf image .05 all >= 50").check_evaluated(["spair", "nemf"], [0.1, 0.05])
    with pytest.raises(ValueError, match=message):
        parse_threshold(text).check_evaluated(["spair", "nemf"], [0.1, 0.05])


def test_every_data_set_must_reach_it(metrics: pd.DataFrame):
    other = pd.concat([metrics, metrics.assign(dataset="other", pck_image=10.0)])
    (line,) = parse_threshold("spair image .1 all >= 50").shortfalls(other)
    assert ": other, " in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spair image .1 cta >= 50", "there is no group cta; there are: all, big cat, wolf"),
        ("spair class .1 big cat >= 50", "only 'all' has an average over classes"),
    ],
)
def test_a_number_that_is_not_there_is_refused(metrics: pd.DataFrame, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_threshold(text).shortfalls(metrics)


@pytest.mark.parametrize(
    "text", ["", "spair >= 50", "spair mean .1 all >= 50", "spair image .1 all = 50", "a image x b > 1"]
)
def test_another_form_is_answered_with_the_right_one(text: str):
    with pytest.raises(ValueError, match="expected PROTOCOL AVERAGE ALPHA GROUP >= PERCENT, such as"):
        parse_threshold(text)
