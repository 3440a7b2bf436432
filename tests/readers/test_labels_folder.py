"""`datasets.load_dataset` opens an exported folder of labels. Not part of `make test`, see test_readers.py."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import python_with
from labelled import POINTS_PX, PROVENANCE, labelled_row, tables, write_images
from make import noise_rgb

from pipeline.pseudo_labels.exports.huggingface import Images, export_huggingface

_OPEN = """
import datasets, json, numpy, sys
folder, cache = sys.argv[1:]
opened = datasets.load_dataset(folder, cache_dir=cache)
sides = ("source_image", "target_image")
rows = {
    split: [{**row, **{side: numpy.array(row[side].convert("RGB")).tolist() for side in sides}} for row in data]
    for split, data in opened.items()
}
streamed = [row["pair_id"] for row in datasets.load_dataset(folder, split="train", streaming=True, cache_dir=cache)]
print("ANSWER" + json.dumps({"version": datasets.__version__, "rows": rows, "streamed": streamed}))
"""


def _opened(folder: Path, *packages: str) -> dict[str, Any]:
    """What `datasets` sees in a folder, images as pixels."""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "home")}
    command = [python_with(*packages), "-c", _OPEN, folder, folder.parent / "cache"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=offline).stdout
    return json.loads(output.rpartition("ANSWER")[2])


@pytest.mark.parametrize("packages", [("datasets", "pillow"), ("datasets==3.6.0", "pillow")], ids=" ".join)
@pytest.mark.parametrize("images", ["inline", "reference"])
def test_every_row_is_there_with_its_images(tmp_path: Path, images: Images, packages: tuple[str, ...]) -> None:
    a, b = write_images(tmp_path / "in", "a.png", "b.png")
    rows = [
        labelled_row("one", a, b),
        labelled_row("two", b, a, split="val", category=None, source_box_xyxy=None, keypoint_probability=None),
    ]
    out = tmp_path / "out"
    export_huggingface(tables(*rows), str(out), provenance=PROVENANCE, images=images)

    answer = _opened(out, *packages)

    print(f"datasets {answer['version']}")
    (one,), (two,) = answer["rows"]["train"], answer["rows"]["validation"]
    assert (one["pair_id"], one["source_xy_px"], one["target_xy_px"]) == ("one", POINTS_PX, POINTS_PX[::-1])
    assert one["keypoint_probability"] == [0.875, 0.9375, 0.75]
    assert (one["source_image"], one["target_image"]) == (noise_rgb(0).tolist(), noise_rgb(1).tolist())
    assert (two["category"], two["source_box_xyxy"], two["keypoint_probability"]) == (None, None, None)
    assert answer["streamed"] == ["one"]
