import struct

import numpy as np
import pytest
from image_bytes import tiff, written_by_tifffile
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io import tiff_directories
from pipeline.io.image_formats import CostlyError
from pipeline.io.tiff_directories import first_directory, move_first_directory, picture_directory

THUMBNAIL = {"subfiletype": 1}
SMALL, LARGE = np.zeros((4, 5), np.uint8), np.zeros((9, 11), np.uint8)
MASK = (np.zeros((9, 12), bool), {"subfiletype": 4})


def _size(data: bytes) -> int:
    directory = picture_directory(data)
    assert directory is not None
    return directory.n_pixels


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_picture_is_what_is_no_thumbnail_and_no_mask(byteorder: str, bigtiff: bool) -> None:
    layout = {"byteorder": byteorder, "bigtiff": bigtiff}

    assert _size(written_by_tifffile(LARGE, SMALL, **layout)) == LARGE.size
    assert _size(written_by_tifffile((SMALL, THUMBNAIL), LARGE, **layout)) == LARGE.size
    assert _size(written_by_tifffile(MASK, LARGE, **layout)) == LARGE.size
    assert _size(written_by_tifffile((SMALL, {**THUMBNAIL, "subifds": 2}), MASK, LARGE, **layout)) == LARGE.size
    assert _size(written_by_tifffile((LARGE, {"subifds": 1}), (SMALL, THUMBNAIL), **layout)) == LARGE.size


def test_of_thumbnails_alone_the_largest_is_the_picture() -> None:
    assert _size(written_by_tifffile((SMALL, THUMBNAIL), (LARGE, THUMBNAIL), (LARGE[:5], THUMBNAIL))) == LARGE.size
    assert _size(written_by_tifffile((SMALL, THUMBNAIL), MASK)) == SMALL.size


def test_the_old_tag_for_thumbnails_counts() -> None:
    data = tiff(8, 8, (255, 3, 1, 2))

    directory = picture_directory(data)

    assert directory is not None
    assert directory.subfile_type == 1


def test_a_directory_below_another_is_turned_as_that_one() -> None:
    turned = {"extratags": [(274, "H", 1, 6, True)]}

    below = picture_directory(written_by_tifffile((SMALL, {**THUMBNAIL, **turned, "subifds": 1}), LARGE))
    after = picture_directory(written_by_tifffile((SMALL, {**THUMBNAIL, **turned}), LARGE))

    assert below is not None
    assert after is not None
    assert (below.orientation, after.orientation) == (6, 1)


def test_directories_in_a_circle_end() -> None:
    data = tiff(8, 8, (254, 4, 1, 1))
    end = 8 + 2 + 12 * 10
    circle = data[:end] + struct.pack("<I", 8) + data[end + 4 :]

    assert _size(circle) == 64


@pytest.mark.parametrize("bigtiff", [False, True])
def test_another_directory_becomes_the_first(bigtiff: bool) -> None:
    data = written_by_tifffile((SMALL, THUMBNAIL), LARGE, bigtiff=bigtiff)
    directory = picture_directory(data)
    assert directory is not None

    moved = move_first_directory(data, directory.offset)

    assert first_directory(moved) == directory.offset
    assert len(moved) == len(data)


@pytest.mark.parametrize("tag", [258, 273, 279, 320, 65000])
def test_numbers_of_a_tag_are_counted_to_the_limit(tag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_directories, "MAX_TIFF_VALUES", 4)

    picture_directory(tiff(8, 8, (tag, 4, 4, 200)))
    with pytest.raises(CostlyError, match=f"TIFF tag {tag} has 5 values, at most 4 are read"):
        picture_directory(tiff(8, 8, (tag, 4, 5, 200)))


def test_numbers_are_counted_in_the_directory_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_directories, "MAX_TIFF_VALUES", 4)
    many_strips = {"rowsperstrip": 1}

    picture_directory(written_by_tifffile(LARGE, (LARGE, many_strips)))
    with pytest.raises(CostlyError, match="TIFF tag 273 has 9 values"):
        picture_directory(written_by_tifffile((SMALL, THUMBNAIL), (LARGE, many_strips)))


@pytest.mark.parametrize("kind", [1, 2, 6, 7])
def test_bytes_and_text_are_not_numbers(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_directories, "MAX_TIFF_VALUES", 4)

    assert _size(tiff(8, 8, (700, kind, 50, 200))) == 64


@pytest.mark.parametrize("prefix", [b"MM\0\x2a", b"MM\x2a\0"])
def test_big_endian_tags_are_counted(prefix: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_directories, "MAX_TIFF_VALUES", 4)
    entry = struct.pack(">HHII", 273, 4, 5, 200)

    with pytest.raises(CostlyError, match="TIFF tag 273 has 5 values"):
        picture_directory(prefix + struct.pack(">IH", 8, 1) + entry)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_tags_are_counted_to_the_limit(bigtiff: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written_by_tifffile(SMALL, bigtiff=bigtiff)
    monkeypatch.setattr(tiff_directories, "MAX_TIFF_TAGS", 5)

    with pytest.raises(CostlyError, match="a TIFF of more than 5 tags"):
        picture_directory(data)


def test_tags_of_all_directories_up_to_the_picture_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_directories, "MAX_TIFF_TAGS", 20)

    picture_directory(written_by_tifffile(SMALL))
    with pytest.raises(CostlyError, match="a TIFF of more than 20 tags"):
        picture_directory(written_by_tifffile((SMALL, THUMBNAIL), LARGE))


def test_a_directory_cut_anywhere_is_none_or_a_directory() -> None:
    whole = encoded(Image.fromarray(noise_rgb(0)), "TIFF")

    for length in (*range(8, 200), len(whole)):
        picture_directory(whole[:length])
    assert picture_directory(b"II*\0" + struct.pack("<I", 2**31) + bytes(9)) is None
    assert picture_directory(b"II\x2b\0\x08\0\0\0" + b"\xff" * 8) is None
