"""TSS in its published layout, written by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.common.interface import DatasetOptions, PairRow, Rejected
from pipeline.datasets.tss import pairs


def _write_pair(folder: Path, flip: str | None = "0", leave_out: tuple[str, ...] = ()) -> None:
    folder.mkdir(parents=True)
    for name in ("image1.png", "image2.png", "flow1.flo", "flow2.flo"):
        if name not in leave_out:
            (folder / name).write_bytes(b"not read by prepare's reader")
    if flip is not None:
        (folder / "flip_gt.txt").write_text(flip)
    mask = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    mask.putpalette([0, 0, 0, 128, 0, 0])
    mask.save(folder / "mask1.png")


def _read(root: Path) -> list[PairRow | Rejected]:
    return list(pairs(DatasetOptions(root=str(root), out="unused.parquet")))


@pytest.mark.parametrize("start", [".", "..", "JODS"])
def test_pairs_come_by_subset_and_name_with_both_flows(tmp_path: Path, start: str) -> None:
    root = tmp_path / "TSS"
    _write_pair(root / "PASCAL" / "b", "1\n")
    _write_pair(root / "JODS" / "c")
    _write_pair(root / "JODS" / "a", flip=None)
    rows = [row for row in _read((root / start).resolve()) if isinstance(row, PairRow)]
    assert [row.pair_id for row in rows] == ["JODS/a", "JODS/c", "PASCAL/b"]
    assert [row.mirrored for row in rows] == [None, False, True]
    row = rows[-1]
    folder = str(root / "PASCAL" / "b")
    assert (row.category, row.split, row.flow_format) == ("PASCAL", "test", "flo")
    assert (row.source_uri, row.source_flow_uri) == (f"{folder}/image1.png", f"{folder}/flow1.flo")
    assert (row.target_uri, row.target_flow_uri) == (f"{folder}/image2.png", f"{folder}/flow2.flo")
    assert (row.source_mask_uri, row.target_mask_uri) == (f"{folder}/mask1.png", None)
    assert row.source_mask_uri is not None
    assert (np.asarray(Image.open(row.source_mask_uri)) != 0).tolist() == [[False, True], [True, False]]


def test_a_pair_without_a_flow_or_with_another_flip_is_rejected(tmp_path: Path) -> None:
    _write_pair(tmp_path / "JODS" / "a", leave_out=("flow2.flo",))
    _write_pair(tmp_path / "JODS" / "b", flip="2")
    missing, wrong = _read(tmp_path)
    assert isinstance(missing, Rejected)
    assert (missing.pair, missing.reason) == ("JODS/a", "missing file")
    assert "there is no flow2.flo" in missing.detail
    assert isinstance(wrong, Rejected)
    assert (wrong.pair, wrong.reason) == ("JODS/b", "wrong value")


def test_a_root_without_the_subsets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="FG3DCar, JODS, PASCAL"):
        _read(tmp_path)
