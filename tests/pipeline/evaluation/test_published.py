import pandas as pd
import pyarrow as pa
import pytest

from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.published import COLUMNS, published, with_published
from schemas.metrics import METRICS


def _run(
    protocol: str, n_pairs: int, group: str = "all", alpha: float = 0.1, direction: str = "target_to_source"
) -> pd.DataFrame:
    row = {"dataset": "spair", "protocol": protocol, "direction": direction, "subset": "all", "alpha": alpha}
    row |= {"group_kind": "all" if group == "all" else "category", "group": group, "n_pairs": n_pairs}
    row |= {"n_points": n_pairs, "n_failed": 0, "pck_image": 40.0, "pck_point": 41.0}
    return pa.Table.from_pylist([row], METRICS).to_pandas()


def test_every_number_says_where_it_is_from_and_under_which_protocol():
    rows = published()
    assert list(rows.columns) == COLUMNS
    assert not rows[["method", "source", "dataset", "protocol", "alpha", "category", "pck"]].isna().any(axis=None)
    assert set(rows["protocol"]) <= {*PROTOCOLS, "unknown"}
    assert rows["pck"].between(0, 100).all()
    assert not rows.duplicated(["method", "dataset", "protocol", "alpha", "category"]).any()
    for _, of_method in rows[rows["category"] != "all"].groupby("method"):
        assert len(of_method) == 18
        assert of_method["n_pairs"].sum() == 12234
        overall = rows[(rows["method"] == of_method["method"].iloc[0]) & (rows["dataset"] == "spair")]
        (overall_pck,) = overall[(overall["category"] == "all") & (overall["alpha"] == 0.1)]["pck"]
        assert of_method["pck"].mean() == pytest.approx(overall_pck, abs=1.5)  # a misread class would be off by more


@pytest.mark.parametrize(
    ("run", "comparable"),
    [
        (_run("nemf", 12234), True),
        (_run("nemf", 3104), False),  # of a part of the pairs
        (_run("nemf", 640, "cow"), True),
        (_run("nemf", 5, "cow"), False),
        (_run("nemf", 12234, direction="source_to_target"), False),
        (_run("spair", 12234), False),
        (_run("spair", 640, "cow"), False),
    ],
)
def test_only_like_is_comparable(run: pd.DataFrame, comparable: bool):
    rows = with_published(run, "mine")
    own, papers = rows[rows["source"] == "this run"], rows[rows["method"] == "NeMF"]
    assert own[["method", "pck", "comparable"]].to_numpy().tolist() == [["mine", 40.0, True]]
    assert papers["comparable"].tolist() == [comparable]
    assert not rows[rows["protocol"] == "unknown"]["comparable"].any()


def test_other_alphas_and_groups_are_not_set_beside():
    assert set(with_published(_run("nemf", 12234, alpha=0.2), "mine")["method"]) == {"mine"}
    assert set(with_published(_run("nemf", 5, "wolf"), "mine")["method"]) == {"mine"}
