"""Whatever a manifest's rows hold: every pair gets its row in each direction, answered or with its reason."""

from pathlib import Path
from typing import Any

import confined
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make import encoded, noise_rgb

from nemf import load_matcher
from pipeline.matching.decode import Chunk, decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import OUTPUTS, MatchOptions
from pipeline.matching.points import parse_points
from schemas.failures import ERROR_KINDS, Failure
from schemas.matches import DIRECTIONS, MATCHES
from schemas.pairs import PAIRS

_PNG = encoded(noise_rgb(0, (9, 7)))
_TEXT = st.text(max_size=20) | st.sampled_from(
    ["", "\n", "\0", "../..", "a\u202egpj.exe", "\\\\host\\share", "a" * 4096]
)
_LOCAL = (None, "", "a.png", "./a.png", "cut.jpg", "absent.png", "a.png/b", "a\0.png", "a\n.png", "/dev/zero", ".", "~")
_ODD = ("file:///dev/stdin", "nothing://a", "zip://a::b", "data:,a", "://", "memory://a.png", "a" * 4096, "\u202e")
_URIS = st.sampled_from(_LOCAL + _ODD)
_IMAGES = st.sampled_from([None, None, _PNG, b"", b"rubbish", _PNG[:60]])
_NUMBERS = st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.5, 1e30, -1e30, 3.5])
_POINTS = st.none() | st.lists(st.none() | st.lists(_NUMBERS, min_size=2, max_size=2), max_size=4)
_BOXES = st.none() | st.lists(_NUMBERS, min_size=4, max_size=4)
_LEVELS = st.none() | st.integers(-128, 127)
_ROWS = st.fixed_dictionaries(
    {"pair_id": _TEXT},
    optional={
        "source_uri": _URIS,
        "target_uri": _URIS | _TEXT.filter(lambda text: "://" not in text),
        "source_image": _IMAGES,
        "target_image": _IMAGES,
        "category": st.none() | _TEXT,
        "source_xy_px": _POINTS,
        "target_xy_px": _POINTS,
        "keypoint_id": st.none() | st.lists(st.none() | _TEXT, max_size=4),
        "source_box_xyxy": _BOXES,
        "occlusion": _LEVELS,
        "seen_in_training": st.none() | st.booleans(),
    },
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "a.png").write_bytes(_PNG)
    (folder / "cut.jpg").write_bytes(encoded(noise_rgb(1, (9, 7)), "JPEG")[:-80])
    return folder


@confined.budget(100)
@given(
    rows=st.lists(_ROWS, min_size=1, max_size=5, unique_by=lambda row: row["pair_id"]),
    outputs=st.sets(st.sampled_from(OUTPUTS)).map(lambda asked: asked | {"keypoints"} if asked != {"flow"} else asked),
    points=st.sampled_from(["keypoints", "grid:2", "dense:2"]),
    n_failed=st.integers(0, 1),
)
def test_every_pair_ends_as_a_row_or_a_row_with_a_reason(
    images: Path, rows: list[dict[str, Any]], outputs: set[str], points: str, n_failed: int
) -> None:
    failures = {row["pair_id"]: Failure("worker", "died", "it kills") for row in rows[:n_failed]}
    options = MatchOptions(directions=DIRECTIONS, outputs=tuple(outputs), points=parse_points(points), batch_pairs=3)
    matcher = load_matcher("identity", device="cpu")

    answered = []
    for chunk in decode_rows(pa.Table.from_pylist(rows, PAIRS), str(images), known_failures=failures, chunk_bytes=400):
        travelled = Chunk.from_row(chunk.to_row())
        table = match_chunk(matcher, travelled, options, fingerprint="f", attempt=1)
        assert table.schema.equals(MATCHES)
        answered += table.to_pylist()

    expected = [(row["pair_id"], direction) for row in rows for direction in DIRECTIONS]
    assert [(row["pair_id"], row["direction"]) for row in answered] == expected
    for row in answered:
        why = (row["error_stage"], row["error_kind"], row["error_message"])
        if row["status"] == "ok":
            assert why == (None, None, None)
            assert row["pair_id"] not in failures
        else:
            assert row["status"] == "error"
            assert row["error_kind"] in ERROR_KINDS[row["error_stage"]]
            assert row["error_message"].strip()
