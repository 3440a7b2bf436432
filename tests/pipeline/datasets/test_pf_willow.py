from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.datasets import pf_willow
from pipeline.datasets.common.interface import PairRow, Rejected, SplitOptions

HEADER = ["imageA", "imageB", *(f"{axis}{image}{k}" for image in "AB" for axis in "XY" for k in range(1, 11))]
CELLS = ["PF-dataset/car(G)/a.png", "PF-dataset/car(G)/b.png", *(str(number) for number in range(40))]


def read(root: Path, *rows: list[str], split: str | None = None) -> list[PairRow | Rejected]:
    (root / "test_pairs.csv").write_text("\n".join(",".join(row) for row in [HEADER, *rows]))
    return list(pf_willow.pairs(SplitOptions(root=str(root), out="pairs.parquet", split=split)))


def test_a_row_of_the_file_becomes_a_pair(tmp_path):
    (row,) = read(tmp_path, CELLS)
    assert row.pair_id == "a-b:car(G)"
    assert row.category == "car(G)"
    assert row.source_uri == f"{tmp_path}/PF-dataset/car(G)/a.png"
    assert row.source_xy_px == [(k, k + 10) for k in range(10)]
    assert row.target_xy_px == [(k + 20, k + 30) for k in range(10)]
    assert row.keypoint_id == [str(k) for k in range(1, 11)]
    assert row.source_box_xyxy is None


def test_the_category_is_the_source_images(tmp_path):
    (row,) = read(tmp_path, [CELLS[0], "PF-dataset/car(S)/b.png", *CELLS[2:]])
    assert row.category == "car(G)"


@pytest.mark.parametrize(
    ("cells", "reason", "detail"),
    [
        (CELLS[:-1], "malformed CSV", "expected 42 cells, as in the header, got 41"),
        ([*CELLS, "1"], "malformed CSV", "expected 42 cells, as in the header, got 43"),
        ([*CELLS[:-1], "x"], "wrong type", "field YB10: expected a number, got 'x'"),
        ([*CELLS[:-1], "nan"], "not finite", "field YB10 is 'nan'"),
        (["a.png", *CELLS[1:]], "wrong value", "field imageA: expected PF-dataset/CATEGORY/NAME, got 'a.png'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_field(tmp_path, cells, reason, detail):
    good, rejected = read(tmp_path, CELLS, cells)
    assert good.pair_id == "a-b:car(G)"
    assert rejected.where == f"{tmp_path}/test_pairs.csv, line 3"
    assert (rejected.reason, rejected.detail) == (reason, detail)


def test_there_is_only_a_test_split(tmp_path):
    assert read(tmp_path, CELLS, split="test")[0].split == "test"
    with pytest.raises(ValueError, match="no split 'trn'; there are: test"):
        read(tmp_path, CELLS, split="trn")


def test_another_table_is_refused(tmp_path):
    (tmp_path / "test_pairs.csv").write_text("source_image,target_image\n")
    with pytest.raises(
        ValueError, match=r"column imageA, imageB, XA1.* is missing; there are: source_image, target_image"
    ):
        list(pf_willow.pairs(SplitOptions(root=str(tmp_path), out="pairs.parquet")))


@pytest.mark.parametrize("name", ["test_pairs.csv", "test_pairs_pf.csv", "test_pairs_pf_willow.csv"])
@pytest.mark.parametrize("inside", ["", "PF-dataset/"])
@pytest.mark.parametrize("root", ["PF-WILLOW", "PF-WILLOW/PF-dataset", ""])
def test_the_list_by_its_names_and_in_its_places(tmp_path, name, inside, root):
    (tmp_path / "PF-WILLOW" / "PF-dataset" / "car(G)").mkdir(parents=True)
    text = "\n".join(",".join(row) for row in [HEADER, CELLS])
    (tmp_path / "PF-WILLOW" / f"{inside}{name}").write_text(text)
    (row,) = pf_willow.pairs(SplitOptions(root=str(tmp_path / root), out="pairs.parquet"))
    assert row.source_uri == f"{tmp_path}/PF-WILLOW/PF-dataset/car(G)/a.png"


@pytest.mark.parametrize("root", ["PF-WILLOW", "PF-WILLOW/PF-dataset", ""])
def test_every_image_with_every_other_of_its_folder_where_there_is_no_list(tmp_path, root):
    for category, names in {"car(G)": "abc", "duck(S)": "ab"}.items():
        folder = tmp_path / "PF-WILLOW" / "PF-dataset" / category
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.png").touch()
            points = np.array([np.arange(10) + ord(name), np.arange(10) * 2.5])
            if name == "b":
                points[:, 3] = np.nan
            scipy.io.savemat(folder / f"{name}.mat", {"pts_coord": points})
    (folder / "not_annotated.png").touch()
    rows = list(pf_willow.pairs(SplitOptions(root=str(tmp_path / root), out="pairs.parquet")))
    assert [row.pair_id for row in rows] == [
        *(f"{pair}:car(G)" for pair in ("a-b", "a-c", "b-a", "b-c", "c-a", "c-b")),
        *(f"{pair}:duck(S)" for pair in ("a-b", "b-a")),
    ]
    assert rows[0].source_uri == f"{tmp_path}/PF-WILLOW/PF-dataset/car(G)/a.png"
    assert rows[0].keypoint_id == ["1", "2", "3", *map(str, range(5, 11))]
    assert rows[1].source_xy_px == [(97 + k, k * 2.5) for k in range(10)]
    assert rows[1].target_xy_px == [(99 + k, k * 2.5) for k in range(10)]
    (folder / "a.mat").write_bytes(b"no mat")
    rejected = list(pf_willow.pairs(SplitOptions(root=str(tmp_path / root), out="pairs.parquet")))[-2:]
    assert [item.reason for item in rejected] == ["malformed .mat file"] * 2


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a list of pairs, test_pairs.csv or test_pairs_pf.csv, nor a"):
        list(pf_willow.pairs(SplitOptions(root=str(tmp_path), out="pairs.parquet")))


def test_the_real_pairs(shared):
    root = shared / "data" / "PF-WILLOW"
    rows = list(pf_willow.pairs(SplitOptions(root=str(root), out="pairs.parquet")))
    assert len({row.pair_id for row in rows}) == 630
    assert len({row.category for row in rows}) == 7
    assert all(Path(uri).exists() for row in rows for uri in (row.source_uri, row.target_uri))
    assert rows[0].source_xy_px[0] == pytest.approx((47.93528064146622, 98.15864833906066))
