from pathlib import Path

import numpy as np
import pyarrow as pa
from make import encoded, noise_rgb, pair_row

from pipeline.matching.decode import Chunk, decode_rows
from schemas.pairs import PAIRS


def _rows(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), PAIRS)


def test_pixels_and_rows_survive_the_object_store(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise_rgb(1)))
    rows = _rows(pair_row("1", source_uri="a.png", target_image=encoded(noise_rgb(2)), category=None))

    (chunk,) = decode_rows(rows, str(tmp_path))
    read = Chunk.from_row(chunk.to_row())

    (pair,) = read.pairs
    assert (pair["pair_id"], pair["category"], pair["source_xy_px"][1]) == ("1", None, [10.0, 5.0])
    np.testing.assert_array_equal(read.images[pair["source_key"]].rgb, noise_rgb(1))
    np.testing.assert_array_equal(read.images[pair["target_key"]].rgb, noise_rgb(2))


def test_a_large_image_travels_at_a_reduced_scale_with_its_own_size() -> None:
    images = {"source_image": encoded(noise_rgb(1, (65, 90))), "target_image": encoded(noise_rgb(2, (7, 90)))}

    (chunk,) = decode_rows(_rows(pair_row("1", **images)), None, reduced_side=8)
    read = Chunk.from_row(chunk.to_row())

    (pair,) = read.pairs
    source, target = (read.images[pair[f"{side}_key"]] for side in ("source", "target"))
    assert (source.whole_hw, source.rgb is not None and source.rgb.shape) == ((65, 90), (17, 23, 3))
    assert (target.whole_hw, target.rgb is not None and target.rgb.shape) == ((7, 90), (7, 90, 3))


def test_a_pair_has_what_matching_needs_and_not_what_only_evaluation_reads(tmp_path: Path) -> None:
    all_points = {"source_all_xy_px": [[1.0, 2.0]], "source_all_keypoint_id": ["ear"]}
    row = pair_row(
        "1", **all_points, mirrored=True, geometry_groups=[["a", "b"]], target_valid_xy_px=[[[1.0, 2.0]]] * 3
    )

    (chunk,) = decode_rows(_rows(row), str(tmp_path))
    (pair,) = Chunk.from_row(chunk.to_row()).pairs

    assert {name: pair[name] for name in all_points} == all_points
    assert {"source_xy_px", "target_box_xyxy", "keypoint_id", "target_all_xy_px"} <= set(pair)
    assert not {"mirrored", "geometry_groups", "target_valid_xy_px"} & set(pair)


def test_an_image_that_pairs_share_is_decoded_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise_rgb(1)))
    inline = encoded(noise_rgb(2))
    rows = _rows(*(pair_row(str(n), source_uri="a.png", source_image=None, target_image=inline) for n in range(20)))

    (chunk,) = decode_rows(rows, str(tmp_path))

    assert len(chunk.pairs) == 20
    assert len(chunk.images) == 2


def test_what_cannot_be_read_is_an_error_in_the_chunk(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise_rgb(1)))
    rows = _rows(
        pair_row("1", source_uri="a.png", target_uri="absent.png"),
        pair_row("2", source_uri="a.png"),
        pair_row("3", source_uri="a.png", target_uri=""),
    )

    (chunk,) = decode_rows(rows, str(tmp_path))
    read = Chunk.from_row(chunk.to_row())

    failures = [read.images[pair["target_key"]].failure for pair in read.pairs]
    assert [failure[:2] for failure in failures if failure] == [("fetch", "not_found"), *[("fetch", "no_image")] * 2]
    assert read.images[read.pairs[0]["source_key"]].failure is None


def test_chunks_hold_a_bounded_number_of_pixels() -> None:
    """Forty pairs of two images each, in chunks of at most five images."""
    rows = _rows(
        *(
            pair_row(str(n), source_image=encoded(noise_rgb(2 * n)), target_image=encoded(noise_rgb(2 * n + 1)))
            for n in range(40)
        )
    )

    chunks = list(decode_rows(rows, None, chunk_bytes=5 * noise_rgb(0).nbytes))

    assert [[pair["pair_id"] for pair in chunk.pairs] for chunk in chunks] == [
        [str(n), str(n + 1)] for n in range(0, 40, 2)
    ]
    assert all(len(chunk.images) == 4 for chunk in chunks)


def test_a_pair_larger_than_a_chunk_is_a_chunk_of_its_own() -> None:
    shared = encoded(noise_rgb(0))
    rows = _rows(*(pair_row(str(n), source_image=shared, target_image=encoded(noise_rgb(n))) for n in (1, 2, 3)))

    chunks = list(decode_rows(rows, None, chunk_bytes=1))

    assert [len(chunk.pairs) for chunk in chunks] == [1, 1, 1]
    assert all(
        pair[f"{side}_key"] in chunk.images for chunk in chunks for pair in chunk.pairs for side in ("source", "target")
    )
