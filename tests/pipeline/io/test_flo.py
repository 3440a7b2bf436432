"""Middlebury .flo files made by hand."""

import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.io.flo import decode_flo, is_known, read_flo, read_flo_hw

_URI = "flows/a.flo"


def _bytes(width: int, height: int, *numbers: float, magic: float = 202021.25) -> bytes:
    return struct.pack(f"<fii{len(numbers)}f", magic, width, height, *numbers)


def test_rows_come_before_columns_and_u_before_v(tmp_path: Path) -> None:
    file = tmp_path / "a.flo"
    file.write_bytes(_bytes(3, 2, *range(12)))
    flow_px = read_flo(str(file))
    assert flow_px.shape == (2, 3, 2)
    assert flow_px[1, 2].tolist() == [10, 11]
    assert read_flo_hw(str(file)) == (2, 3)


def test_sentinels_and_numbers_that_are_none_are_unknown() -> None:
    flow_px = decode_flo(_bytes(6, 1, 1e10, 1e10, 1e9, 0, 0, 1e9, 9.9e8, -9.9e8, -1e10, 0, np.nan, 0), _URI)
    assert is_known(flow_px).tolist() == [[False, False, False, True, False, False]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least 12 bytes, got 0"),
        (_bytes(1, 1, 0, 0, magic=1.0), "expected 202021.25"),
        (_bytes(0, 1), "got 0 and 1"),
        (_bytes(1, -1), "got 1 and -1"),
        (_bytes(2**31 - 1, 2**31 - 1, 0, 0), "must be 1 to 99999"),
        (_bytes(90_000, 90_000, 0, 0), "has 64800000012 bytes, got 20"),
        (_bytes(1, 1, 0), "has 20 bytes, got 16"),
        (_bytes(1, 1, 0, 0, 0), "has 20 bytes, got 24"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_allocated(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{_URI}: .*{message}"):
        decode_flo(data, _URI)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.flo"):
        read_flo(str(tmp_path / "absent.flo"))
