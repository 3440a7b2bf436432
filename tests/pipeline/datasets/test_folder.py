from pathlib import Path

import pytest

from pipeline.datasets import folder
from pipeline.datasets.common.interface import PairRow, Rejected


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("c.png", "a.jpg", "b.JPEG", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def read(root: Path, pairing: str) -> list[PairRow | Rejected]:
    return list(folder.pairs(folder.Options(root=str(root), out="pairs.parquet", pairing=pairing)))


@pytest.mark.parametrize(
    ("pairing", "pair_ids"),
    [
        ("all", ["a.jpg:b.JPEG", "a.jpg:c.png", "b.JPEG:c.png"]),
        ("sequential", ["a.jpg:b.JPEG", "b.JPEG:c.png"]),
        ("star", ["a.jpg:b.JPEG", "a.jpg:c.png"]),
    ],
)
def test_rules(root, pairing, pair_ids):
    rows = read(root, pairing)
    assert [row.pair_id for row in rows] == pair_ids
    assert (rows[0].source_uri, rows[0].target_uri) == (f"{root}/a.jpg", f"{root}/b.JPEG")
    assert rows[0].source_xy_px is None


def test_a_folder_named_like_an_image_is_none(root):
    (root / "d.png").mkdir()
    assert len(read(root, "all")) == 3


def test_a_text_file_of_pairs(root):
    file = root / "notes.txt"
    file.write_text("c.png a.jpg\n\nwith space.jpg\ta.jpg\na.jpg b.JPEG c.png\n")
    first, second, rejected = read(root, str(file))
    assert (first.source_uri, first.target_uri) == (f"{root}/c.png", f"{root}/a.jpg")
    assert second.source_uri == f"{root}/with space.jpg"
    assert rejected.where == f"{file}, line 4"
    assert rejected.detail.startswith("expected two names, got 3")


def test_what_cannot_be_paired(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--pairing takes all, sequential, star or a text file.*circle"):
        read(root, "circle")
    with pytest.raises(ValueError, match=r"has 0 images"):
        read(tmp_path / "nowhere", "all")
