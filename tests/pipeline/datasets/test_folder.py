import itertools
from pathlib import Path

import pytest

from pipeline.datasets import folder
from pipeline.datasets.common.interface import PairRow, Rejected, UnpairedImage
from pipeline.io import image_formats
from pipeline.io.image_formats import readable_suffixes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("c.png", "a.jpg", "b.JPEG", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def read(root: Path, pairing: str, **options: bool) -> list[PairRow | Rejected | UnpairedImage]:
    return list(folder.pairs(folder.Options(root=str(root), out="pairs.parquet", pairing=pairing, **options)))


@pytest.mark.parametrize(
    ("pairing", "pair_ids"),
    [
        ("all", ["a.jpg:b.JPEG", "a.jpg:c.png", "b.JPEG:c.png"]),
        ("sequential", ["a.jpg:b.JPEG", "b.JPEG:c.png"]),
        ("star", ["a.jpg:b.JPEG", "a.jpg:c.png"]),
    ],
)
def test_rules(root, pairing, pair_ids):
    left_out, *rows = read(root, pairing)
    assert left_out.pair == "notes.txt"
    assert [row.pair_id for row in rows] == pair_ids
    assert (rows[0].source_uri, rows[0].target_uri) == (f"{root}/a.jpg", f"{root}/b.JPEG")
    assert rows[0].source_xy_px is None


def test_a_folder_named_like_an_image_is_none(root):
    (root / "d.png").mkdir()
    pairs = [row for row in read(root, "all") if isinstance(row, PairRow)]
    assert len(pairs) == 3


def test_a_text_file_of_pairs(root):
    file = root / "notes.txt"
    file.write_text("c.png a.jpg\n\nwith space.jpg\ta.jpg\na.jpg b.JPEG c.png\n")
    first, second, rejected = read(root, str(file))
    assert (first.source_uri, first.target_uri) == (f"{root}/c.png", f"{root}/a.jpg")
    assert second.source_uri == f"{root}/with space.jpg"
    assert rejected.where == f"{file}, line 4"
    assert rejected.detail.startswith("expected two names, got 3")


def test_what_cannot_be_paired(root, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"--pairing takes all, sequential, star, neighbours or a text file.*circle"
    ):
        read(root, "circle")
    with pytest.raises(ValueError, match=r"has 0 images"):
        read(tmp_path / "nowhere", "all")


def test_what_is_left_out_is_named_and_counted(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_formats, "_has_heif", lambda: False)
    for name in ("e.ppm", "f.PPM", "g", "h.heic", "i.dng"):
        (root / name).touch()
    (root / "below").mkdir()
    (root / "below" / "j.png").touch()

    left_out = [item for item in read(root, "all") if isinstance(item, Rejected)]

    assert {item.pair: item.reason for item in left_out} == {
        "e.ppm": ".ppm file, no image that is read",
        "f.PPM": ".ppm file, no image that is read",
        "g": "file without a suffix",
        "h.heic": ".heic file: HEIF (HEIC); pip install 'nemf[heif]' to read it",
        "i.dng": ".dng file, no image that is read",
        "notes.txt": ".txt file, no image that is read",
        "below/": "folder below, not searched",
    }
    assert all(item.by_design for item in left_out)


def test_every_suffix_of_an_image_is_an_image(tmp_path: Path):
    names = [f"{number:02}{suffix}" for number, suffix in enumerate(readable_suffixes())]
    for name in names:
        (tmp_path / name).touch()

    rows = read(tmp_path, "sequential")

    assert [row.pair_id for row in rows] == [f"{a}:{b}" for a, b in itertools.pairwise(names)]


def test_images_in_folders_below_alone_are_said_not_to_be_searched(tmp_path: Path):
    for name in ("db", "query"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()

    with pytest.raises(
        ValueError, match=r"has 0 images \(.*\); a pair needs two; left out: 2 x folder below, not searched"
    ):
        read(tmp_path, "all")
    (tmp_path / "pairs.txt").write_text("db/a.png query/a.png\n")
    (row,) = read(tmp_path, str(tmp_path / "pairs.txt"))
    assert row.source_uri == f"{tmp_path}/db/a.png"


@pytest.fixture
def categories(tmp_path: Path) -> Path:
    for name in ("cat/b.png", "cat/a.png", "dog/a.png", "dog/notes.txt", "dog/more/c.png", "lone/d.png", "e.png"):
        (tmp_path / "sorted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sorted" / name).touch()
    return tmp_path / "sorted"


def test_neighbours_are_left_to_be_paired(root):
    left_out, *images = read(root, "neighbours")
    assert left_out.pair == "notes.txt"
    assert images == [
        UnpairedImage(where=str(root), image_id=name, uri=f"{root}/{name}") for name in ("a.jpg", "b.JPEG", "c.png")
    ]


def test_folders_are_categories(categories):
    items = read(categories, "all", category_folders=True)
    assert [(item.pair, item.reason) for item in items if isinstance(item, Rejected)] == [
        ("e.png", "file in no folder"),
        ("notes.txt", ".txt file, no image that is read"),
        ("more/", "folder below, not searched"),
    ]
    (row,) = (item for item in items if isinstance(item, PairRow))
    assert (row.pair_id, row.category, row.source_uri) == ("cat/a.png:cat/b.png", "cat", f"{categories}/cat/a.png")
    images = [item for item in read(categories, "neighbours", category_folders=True) if isinstance(item, UnpairedImage)]
    assert [(image.image_id, image.category) for image in images] == [
        *(("cat/a.png", "cat"), ("cat/b.png", "cat")),
        *(("dog/a.png", "dog"), ("lone/d.png", "lone")),
    ]


def test_a_pair_needs_two_images_of_a_category_or_neighbours_across(categories, root):
    (categories / "cat" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"has 3 images in folders below .*a pair needs two of one category"):
        read(categories, "star", category_folders=True)
    assert len(read(categories, "neighbours", category_folders=True)) == 3 + 3
    with pytest.raises(ValueError, match=r"--category-folders is for the rules"):
        read(root, str(root / "notes.txt"), category_folders=True)
