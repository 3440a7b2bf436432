from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import image_list
from pipeline.datasets.common.interface import Rejected, UnpairedImage


def read(root: Path, **options: Any) -> list[UnpairedImage | Rejected]:
    return list(image_list.pairs(image_list.Options(root=str(root), out="pairs.parquet", **options)))


def test_rows_of_csv_are_images(tmp_path: Path):
    table = tmp_path / "images.csv"
    table.write_text(
        "image_uri,image_id,category,box_xyxy,split,photographer\n"
        'a.jpg,1,cat,"1,2,30.5,40",train,Ann\n'
        "s3://bucket/b.jpg,,,,,\n"
        'img/c.jpg,c,7,"[0, 0, 5, 5]",,\n'
    )

    first, second, third = read(table)

    assert first == UnpairedImage(
        where=f"{table}, line 2",
        image_id="1",
        uri=f"{tmp_path}/a.jpg",
        category="cat",
        box_xyxy=(1, 2, 30.5, 40),
        split="train",
    )
    assert second == UnpairedImage(where=f"{table}, line 3", image_id="s3://bucket/b.jpg", uri="s3://bucket/b.jpg")
    assert (third.uri, third.category, third.box_xyxy) == (f"{tmp_path}/img/c.jpg", "7", (0, 0, 5, 5))


def test_another_column_may_hold_the_categories(tmp_path: Path):
    columns = {"image_uri": ["a.jpg", "b.jpg"], "species": [3, None], "category": ["x", "x"]}
    pq.write_table(pa.table({**columns, "box_xyxy": [[0.0, 0.0, 1.0, 1.0], None]}), tmp_path / "images.parquet")

    first, second = read(tmp_path / "images.parquet", category_column="species")
    assert (first.category, first.box_xyxy, second.category, second.box_xyxy) == ("3", (0, 0, 1, 1), None, None)

    with pytest.raises(ValueError, match=r"images\.parquet: column genus is missing; there are: image_uri, species"):
        read(tmp_path / "images.parquet", category_column="genus")


def test_images_are_below_the_root_and_parts_may_be_partitioned(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / "table" / f"species={name}").mkdir(parents=True)
        (tmp_path / "table" / f"species={name}" / "0.csv").write_text(f"image_uri\n{name}.jpg\n")

    images = read(tmp_path / "photos", annotations=str(tmp_path / "table"), category_column="species")

    assert [(image.uri, image.category) for image in images] == [
        (f"{tmp_path}/photos/cat.jpg", "cat"),
        (f"{tmp_path}/photos/dog.jpg", "dog"),
    ]


def test_rows_that_cannot_be_used_have_a_reason(tmp_path: Path):
    table = tmp_path / "images.csv"
    table.write_text('image_uri,box_xyxy\n,\na.jpg,"1,2,3"\na.jpg,left\na.jpg,"3,3,3,9"\n')

    rejected = read(table)

    assert [(row.where, row.reason) for row in rejected] == [
        (f"{table}, line 2", "missing field"),
        (f"{table}, line 3", "wrong type"),
        (f"{table}, line 4", "wrong type"),
        (f"{table}, line 5", "wrong value"),
    ]


def test_what_is_no_list_of_images(tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("source_uri,target_uri\na.jpg,b.jpg\n")

    with pytest.raises(ValueError, match=r"pairs\.csv: column image_uri is missing; there are: source_uri, target_uri"):
        read(tmp_path / "pairs.csv")
    with pytest.raises(FileNotFoundError, match=r"there is no table .*nowhere\.csv"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"a list of images is a \.csv or \.parquet file"):
        read(tmp_path / "nowhere")
