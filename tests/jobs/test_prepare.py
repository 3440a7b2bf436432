import itertools
import json
import re
import textwrap
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image

from jobs import submit
from jobs.prepare import main, make_config
from pipeline.datasets import registry
from pipeline.datasets.registry import BUILT_IN


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).touch()
    return folder


def prepare(out: Path, dataset: str, root: Path, *flags: str) -> int:
    return main(["--dataset", dataset, "--root", str(root), "--out", str(out), *flags])


def test_a_manifest_and_its_summary(images, tmp_path, capsys):
    out = tmp_path / "pairs.parquet"
    assert prepare(out, "folder", images) == 0
    assert capsys.readouterr().out == f"{out}: 3 pairs, 0 categories, 3 images, 0 keypoint pairs\n"
    table = pd.read_parquet(out)
    assert table["source_uri"][0] == f"{images}/a.jpg"
    assert table["dataset"].tolist() == ["folder"] * 3


def test_absolute_uris_whatever_the_working_directory(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare(Path("pairs.parquet"), "folder", Path("images")) == 0
    assert pd.read_parquet(tmp_path / "pairs.parquet")["source_uri"][0] == f"{images}/a.jpg"


def test_relative_uris(images, tmp_path):
    out = tmp_path / "pairs.parquet"
    assert prepare(out, "folder", tmp_path / "images" / "..", "--relative-uris", "--pairing", pairing(tmp_path)) == 0
    assert pd.read_parquet(out)["target_uri"].tolist() == ["images/b.jpg"]


def test_uris_relative_to_the_folder_of_a_table(images, tmp_path, capsys):
    table, out = tmp_path / "table.csv", tmp_path / "out" / "pairs.parquet"
    table.write_text(f"source_uri,target_uri\nimages/a.jpg,{images}/b.jpg\nimages/c.jpg,https://example.org/d.jpg\n")
    assert prepare(out, "table", table, "--relative-uris") == 0
    assert pd.read_parquet(out)["source_uri"].tolist() == ["images/a.jpg", "images/c.jpg"]
    assert pd.read_parquet(out)["target_uri"].tolist() == ["images/b.jpg", "https://example.org/d.jpg"]
    assert f"kept absolute: 1 images, which are not below {tmp_path}\n" in capsys.readouterr().out


def test_true_flow_and_masks_stay_absolute(images, tmp_path):
    table, out = tmp_path / "table.csv", tmp_path / "out" / "pairs.parquet"
    names = "source_uri,target_uri,source_flow_uri,flow_format,target_mask_uri"
    table.write_text(f"{names}\nimages/a.jpg,images/b.jpg,images/a.flo,flo,images/b.png\n")
    assert prepare(out, "table", table, "--relative-uris") == 0
    (row,) = pd.read_parquet(out).to_dict("records")
    assert (row["source_uri"], row["target_uri"]) == ("images/a.jpg", "images/b.jpg")
    assert (row["source_flow_uri"], row["target_mask_uri"]) == (f"{images}/a.flo", f"{images}/b.png")


def pairing(tmp_path: Path) -> str:
    file = tmp_path / "pairs.txt"
    file.write_text("images/a.jpg images/b.jpg\n")
    return str(file)


@pytest.mark.parametrize("flag", ["--pairing", "--pairing=list.txt"])
def test_a_list_is_looked_for_below_the_root_too(images, tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    (images / "list.txt").write_text("a.jpg c.jpg\n")
    out = tmp_path / "pairs.parquet"
    assert prepare(out, "folder", Path("images"), *([flag] if "=" in flag else [flag, "list.txt"])) == 0
    assert pd.read_parquet(out)["pair_id"].tolist() == ["a.jpg:c.jpg"]
    Path("list.txt").write_text("b.jpg c.jpg\n")
    assert prepare(out, "folder", Path("images"), "--pairing", "list.txt") == 0
    assert pd.read_parquet(out)["pair_id"].tolist() == ["b.jpg:c.jpg"]


def test_annotations_are_looked_for_below_the_root_too(images, tmp_path, capsys):
    (images / "lists").mkdir()
    (images / "lists" / "mine.csv").write_text("source_uri,target_uri\na.jpg,b.jpg\n")
    out = tmp_path / "pairs.parquet"
    assert prepare(out, "table", images, "--annotations", "lists/mine.csv") == 0
    assert pd.read_parquet(out)["source_uri"].tolist() == [f"{images}/a.jpg"]
    assert prepare(out, "table", images, "--annotations", "lists/other.csv") == 2
    assert "lists/other.csv" in capsys.readouterr().err


def test_each_of_several_files_is_looked_for_below_the_root_too(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"jpeg": [b"x"]}), images / "below.parquet")
    pq.write_table(pa.table({"jpeg": [b"x"]}), tmp_path / "here.parquet")
    flags = ("--split", "test", "--training-images", "below.parquet", "here.parquet")
    assert prepare(tmp_path / "pairs.parquet", "ap-10k", images, *flags) == 2
    assert f"{images}/annotations has no ap10k-train-split1.json" in capsys.readouterr().err
    assert prepare(tmp_path / "pairs.parquet", "ap-10k", images, *flags[:-1], "nowhere.parquet") == 2
    assert "nowhere.parquet" in capsys.readouterr().err


def test_no_pairs_and_why_and_what_is_noted(images, tmp_path, capsys):
    boxes = {"bbox": [1, 1, 5, 5], "category_id": 1}
    annotations = [boxes | {"id": n, "image_id": n, "keypoints": [1, 1, 2]} for n in range(3)]
    content = {
        "images": [{"id": n, "file_name": f"{'abc'[n]}.jpg"} for n in range(3)],
        "categories": [{"id": 1, "name": "dot", "keypoints": ["dot"]}],
        "annotations": [*annotations, boxes | {"id": 4, "image_id": 0, "keypoints": [1, 1, 2]}],
    }
    (images / "c.json").write_text(json.dumps(content))
    out = tmp_path / "pairs.parquet"
    assert prepare(out, "coco", images, "--annotations", "c.json") == 2
    message = "left out: 1 x category whose objects share fewer than 3 visible keypoints"
    assert message in capsys.readouterr().err
    content["categories"][0]["keypoints"] = ["a", "b", "c"]
    for annotation in content["annotations"]:
        annotation["keypoints"] *= 3
    (images / "c.json").write_text(json.dumps(content))
    assert prepare(out, "coco", images, "--annotations", "c.json") == 0
    noted = "note: 1 x image with several objects of a category, each paired as if it were the only one (first: "
    assert noted in capsys.readouterr().out


def test_annotations_that_do_not_fit_their_images(images, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(images / "a.jpg", exif=exif)
    Image.new("RGB", (60, 40)).save(images / "b.jpg")
    points = {"category_id": 1, "keypoints": [1, 2, 2, 10, 20, 2, 59, 70, 2], "bbox": [1, 2, 30, 20]}
    content = {
        "images": [
            {"id": n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(("a.jpg", "b.jpg"))
        ],
        "categories": [{"id": 1, "name": "dot", "keypoints": ["a", "b", "c"]}],
        "annotations": [points | {"id": n, "image_id": n} for n in range(2)],
    }
    file, out = tmp_path / "c.json", tmp_path / "pairs.parquet"
    file.write_text(json.dumps(content))
    flags = ("--annotations", str(file))
    assert prepare(out, "coco", images, *flags) == 0
    shown = capsys.readouterr().out
    assert "note: 1 x image annotated as stored: its points and boxes are turned as its EXIF orientation" in shown
    assert "note: 2 x point outside its image" in shown
    (row,) = pd.read_parquet(out).to_dict("records")
    side = "source" if row["source_uri"].endswith("a.jpg") else "target"
    assert [list(point) for point in row[f"{side}_xy_px"]][:2] == [[37, 1], [19, 10]]
    assert list(row[f"{side}_box_xyxy"]) == [17, 1, 37, 31]
    content["images"][1]["width"] = 600
    file.write_text(json.dumps(content))
    assert prepare(out, "coco", images, *flags) == 2
    assert "annotation of another image size: the annotation is of 600 x 40 pixels, and the" in capsys.readouterr().err
    assert prepare(out, "coco", images, *flags, "--no-check-sizes") == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_relative_uris_of_images_that_came_inline(tmp_path):
    points = [{"name": name, "x": 1.0, "y": 2.0} for name in "abc"]
    instances = [{"category": "cat", "bbox_xyxy": [1.0, 2.0, 3.0, 4.0], "keypoints": points}]
    rows = [{"image_id": name, "jpeg": b"jpeg", "instances": instances} for name in "ab"]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "val.parquet")
    out = tmp_path / "pairs.parquet"
    assert prepare(out, "animal-pose", tmp_path / "data", "--relative-uris") == 0
    for uri in pd.read_parquet(out)["source_uri"]:
        assert uri.startswith("pairs_images/")
        assert (tmp_path / uri).read_bytes() == b"jpeg"


def test_errors_end_the_job_or_are_left_out(images, tmp_path, capsys):
    out = tmp_path / "pairs.parquet"
    table = tmp_path / "table.csv"
    table.write_text('source_uri,target_uri,source_xy_px\na.jpg,b.jpg,"1,2"\na.jpg,d.jpg,\nb.jpg,c.jpg,"1,inf"\n')
    flags = ("--annotations", str(table))
    assert prepare(out, "table", images, *flags) == 2
    assert f"error: {table}, line 3: missing image: the target image {images}/d.jpg" in capsys.readouterr().err
    assert not out.exists()
    assert prepare(out, "table", images, *flags, "--on-error", "skip") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 1 pairs, 0 categories, 2 images, 0 keypoint pairs",
        "left out: 1 x missing image",
        "left out: 1 x not finite",
        f"listed in {out}.skipped.csv",
    ]


@pytest.mark.parametrize(
    ("dataset", "flags", "message"),
    [
        (
            "spare",
            (),
            f"'spare'; there are: {', '.join(BUILT_IN)}",
        ),
        ("folder", ("--split", "x"), "--split means nothing to folder, which reads: --address"),
        ("folder", ("--pairing", "neighbours", "--neighbours", "-2"), "--neighbours must be at least 0; got -2"),
        ("folder", ("--pairing", "neighbours", "--matcher", "nosuch"), "there is no matcher 'nosuch'"),
        ("photographs", ("--seed", "3"), "--seed means nothing to photographs, which reads: only --root and --out"),
        (
            "coco",
            ("--pairing", "all"),
            "which reads: --annotations, --crowded, --pairs-per-category, --seed, --split, --split-seed",
        ),
        ("table", ("--annotations", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_what_cannot_be_asked(images, tmp_path, capsys, dataset, flags, message):
    assert prepare(tmp_path / "pairs.parquet", dataset, images, *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["spair", "folder", "pf-pascal", "photographs"])
def test_a_root_that_is_not_there_is_named(tmp_path, monkeypatch, capsys, dataset):
    monkeypatch.chdir(tmp_path)
    assert prepare(tmp_path / "pairs.parquet", dataset, Path("nowhere")) == 2
    assert capsys.readouterr().err == f"error: --root: there is no folder {tmp_path}/nowhere\n"


def test_the_manifest_has_the_suffix_by_which_it_is_found(images, tmp_path, capsys):
    assert prepare(tmp_path / "pairs", "folder", images) == 2
    assert f"error: --out must end in .parquet, got {tmp_path}/pairs\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "flag"), [("table", "--root"), ("table", "--annotations"), ("pf-pascal", "--training-list")]
)
def test_an_input_is_not_overwritten(tmp_path, monkeypatch, capsys, dataset, flag):
    monkeypatch.chdir(tmp_path)
    Path("mine.parquet").write_bytes(b"mine")
    flags = {"--root": "."} | {flag: "./mine.parquet"}
    argv = ["--dataset", dataset, "--out", str(tmp_path / "mine.parquet"), *itertools.chain(*flags.items())]
    assert main(argv) == 2
    assert f"--out {tmp_path}/mine.parquet is also an input" in capsys.readouterr().err
    assert Path("mine.parquet").read_bytes() == b"mine"


def test_help_lists_the_data_sets_and_describes_the_one_that_is_named(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in BUILT_IN)
    assert "--training-list" not in text

    with pytest.raises(SystemExit, match="0"):
        main(["--help", "--dataset=pf-pascal"])
    text = capsys.readouterr().out
    assert "PF-PASCAL: lists of pairs as CSV" in text
    assert "The list of training pairs, path or URI." in text


def test_images_are_paired_with_those_that_look_like_them(tmp_path, capfd):
    folder, out = tmp_path / "photos", tmp_path / "pairs.parquet"
    for name in ("coffee", "chelsea", "rocket"):
        photograph = Image.fromarray(getattr(skimage.data, name)()).resize((120, 80))
        for breed, image in {
            "plain": photograph,
            "turned": photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        }.items():
            (folder / breed).mkdir(parents=True, exist_ok=True)
            image.save(folder / breed / f"{name}.png")
    (folder / "plain" / "broken.jpg").write_bytes(b"broken")
    flags = ("--pairing", "neighbours", "--category-folders", "--neighbours", "0", "--neighbours-across", "1")

    assert prepare(out, "folder", folder, *flags, "--workers", "1", "--device", "cpu") == 0

    table = pd.read_parquet(out)
    names = [
        {Path(source).name, Path(target).name}
        for source, target in zip(table.source_uri, table.target_uri, strict=True)
    ]
    assert names == [{"chelsea.png"}, {"coffee.png"}, {"rocket.png"}]
    assert table["level"].tolist() == ["across categories"] * 3
    assert all({row.category, row.target_category} == {"plain", "turned"} for row in table.itertuples())
    assert "left out: 1 x image that cannot be read (decode: not_an_image)" in capfd.readouterr().out


def test_the_options_of_a_data_set_have_their_defaults():
    config = make_config("coco", root="images", out="pairs.parquet", seed=3)
    assert (config.dataset, config.seed, config.pairs_per_category, config.on_error) == ("coco", 3, 1000, "raise")


OWN = """
'''Every image with itself.'''

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.datasets.common.interface import DatasetOptions, PairRow, Rejected
from pipeline.io import storage


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    suffix: str = ".jpg"
    '''What names of images end in.'''


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    for uri in storage.list_files(options.root, options.suffix):
        yield PairRow(where=uri, pair_id=uri.rpartition("/")[2], source_uri=uri, target_uri=uri)


def other(options: str) -> None: ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """A data set in a package of the user's own."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "selfies.py").write_text(OWN)
    (tmp_path / "own_package" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_package.selfies:pairs"


def test_a_data_set_of_another_package_with_an_option_of_its_own(own, images, tmp_path, capsys):
    out = tmp_path / "pairs.parquet"
    assert prepare(out, own, images, "--suffix", "b.jpg") == 0
    assert pd.read_parquet(out)[["pair_id", "dataset"]].values.tolist() == [["b.jpg", own]]
    assert prepare(out, own, images, "--split", "test") == 2
    assert f"error: --split means nothing to {own}, which reads: --suffix\n" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--dataset", own, "--help"])
    text = capsys.readouterr().out
    assert "Every image with itself." in text
    assert "What names of images end in." in text


def test_the_example_of_the_registry_is_a_data_set(images, tmp_path, monkeypatch):
    file, code, command = re.search(
        r"in a file (\S+):\n\n(    .*?)\n\nIt is used as `nemf prepare (.*?)`", registry.__doc__, re.DOTALL
    ).groups()
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    (images / "pets.csv").write_text("image_a,image_b,breed\na.jpg,b.jpg,pug\nb.jpg,c.jpg,beagle\n")
    monkeypatch.chdir(tmp_path)
    images.rename("pets")
    assert main(command.split()) == 0
    assert pd.read_parquet("pairs.parquet")[["pair_id", "category"]].values.tolist() == [["a.jpg:b.jpg", "pug"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:pairs", "data set 'no_such_package:pairs': there is no module 'no_such_package' on"),
        ("own_package.broken:pairs", "own_package.broken cannot be imported (ZeroDivisionError: division by zero)"),
        ("own_package.selfies:images", "own_package.selfies has no function images"),
        ("own_package.selfies:other", "other must take one argument, annotated with its options"),
        ("own_package.selfies", "there is no data set 'own_package.selfies'; there are: animal-pose, ap-10k, coco,"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_no_data_set(images, tmp_path, capsys, name, message):
    assert prepare(tmp_path / "pairs.parquet", name, images) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("dataset", "flag"), [("coco", "--annotations"), ("pf-pascal", "--training-list")])
def test_submit_knows_the_paths_among_the_options_of_a_data_set(capsys, dataset, flag):
    words = ["prepare", "--dataset", dataset, "--root", "/data", "--out", "/out.parquet", flag, "mine.json"]
    assert submit.main(["--", *words]) == 2
    assert f"error: {flag} mine.json is relative to this machine's folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "folder", "pairs"), [("spair", "SPair-71k", 3104), ("pf-willow", "PF-WILLOW", 630)]
)
def test_real_data_sets(shared, tmp_path, dataset, folder, pairs):
    out = tmp_path / "pairs.parquet"
    assert prepare(out, dataset, shared / "data" / folder) == 0
    assert pd.read_parquet(out)["pair_id"].nunique() == pairs
