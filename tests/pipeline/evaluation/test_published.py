import pandas as pd
import pyarrow as pa
import pytest

from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.published import COLUMNS, published, with_published
from schemas.matches import DIRECTIONS
from schemas.metrics import METRICS


def _run(
    protocol: str,
    n_pairs: int,
    group: str = "all",
    alpha: float = 0.1,
    direction: str = "target_to_source",
    dataset: str = "spair",
    group_kind: str = "category",
) -> pd.DataFrame:
    row = {"dataset": dataset, "protocol": protocol, "direction": direction, "subset": "all", "alpha": alpha}
    row |= {"group_kind": "all" if group == "all" else group_kind, "group": group, "n_pairs": n_pairs}
    row |= {"n_points": n_pairs, "n_failed": 0, "pck_image": 40.0, "pck_point": 41.0}
    return pa.Table.from_pylist([row], METRICS).to_pandas()


def test_every_number_says_where_it_is_from_and_under_which_protocol():
    rows = published()
    assert list(rows.columns) == COLUMNS
    texts = ["method", "source", "labels", "dataset", "protocol", "direction", "category"]
    assert not rows[[*texts, "first_hand", "alpha", "pck"]].isna().any(axis=None)
    assert (rows[texts] != "").all(axis=None)
    assert set(rows["protocol"]) <= {*PROTOCOLS, "unknown"}
    assert set(rows["direction"]) <= {*DIRECTIONS, "unknown"}
    assert rows["first_hand"].dtype == bool
    assert rows["pck"].between(0, 100).all()
    assert not rows.duplicated(["method", "dataset", "protocol", "alpha", "category"]).any()
    of_classes = rows[(rows["dataset"] == "spair") & ~rows["category"].isin(["all", "geometry-aware"])]
    for _, of_method in of_classes.groupby("method"):
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


def test_a_number_of_pairs_that_is_not_stated_never_compares():
    run = _run("spair", 12234, direction="source_to_target")
    rows = with_published(run, "mine")
    unstated = rows[rows["n_pairs"].isna()]
    assert {"ImCorr", "MARCO", "DINOv2-B"} <= set(unstated["method"])
    assert not unstated["comparable"].any()
    nothing_run = with_published(run.assign(n_pairs=float("nan")), "mine")
    assert not nothing_run[nothing_run["source"] != "this run"]["comparable"].any()


def test_averages_over_keypoints_are_of_a_protocol_of_their_own():
    rows = published().set_index("method")
    assert rows.loc[["DiTF", "CleanDIFT + TLFR", "Geo-SC, zero-shot"], "protocol"].eq("geoaware-point").all()


def test_levels_are_set_beside_the_same_level_only():
    run = _run("spair", 9, "cross-family", dataset="ap-10k", group_kind="level")
    papers = with_published(run, "mine").iloc[1:]
    assert set(papers["category"]) == {"cross-family"}
    assert "MARCO" in set(papers["method"])
    assert set(with_published(_run("spair", 9, dataset="ap-10k"), "mine")["method"]) == {"mine"}
