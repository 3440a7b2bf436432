import io
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from earlier_tables import as_earlier

from schemas.check import SchemaError, check_schema, conform
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS


def test_every_difference_is_listed_in_one_error() -> None:
    actual = pa.schema([("source_xy_px", pa.list_(pa.float64())), ("source_uri", pa.int64()), ("colour", pa.string())])

    with pytest.raises(SchemaError) as error:
        check_schema(actual, PAIRS, "mine.parquet")

    message = str(error.value)
    assert "mine.parquet is not a PAIRS table" in message
    assert "column pair_id is missing (schema says string)" in message
    assert "column source_xy_px is list<item: double>, schema says list<item: list<item: float>>" in message
    assert "column source_uri is int64, schema says string" in message
    assert "column colour is not in the schema" in message


def test_a_table_of_another_version_is_refused_and_one_that_does_not_say_is_not() -> None:
    other = PAIRS.with_metadata({"table": "PAIRS", "schema_version": "0"})

    with pytest.raises(SchemaError, match=r"old is not a PAIRS table: it was written as version 0, and version 4 is"):
        check_schema(other, PAIRS, "old")

    check_schema(PAIRS.with_metadata({"pandas": "{}"}), PAIRS, "of pandas")


def test_a_table_that_says_it_is_another_has_only_that_said() -> None:
    for actual, expected, message in (
        (PAIRS, METRICS, "^mine is a PAIRS table, expected METRICS$"),
        (METRICS, PAIRS, "^mine is a METRICS table, expected PAIRS$"),
    ):
        with pytest.raises(SchemaError, match=message):
            check_schema(actual, expected, "mine")
    check_schema(PAIRS, PAIRS.remove_metadata(), "mine")


def test_absent_nullable_columns_become_null_and_order_is_free() -> None:
    table = pa.table({"target_uri": ["b"], "pair_id": ["1"]})

    conformed = conform(table, PAIRS, "t")

    assert conformed.schema.equals(PAIRS, check_metadata=True)
    assert conformed["target_uri"].to_pylist() == ["b"]
    assert conformed["source_xy_px"].to_pylist() == [None]


def test_types_with_the_same_values_are_accepted() -> None:
    table = pa.table(
        {
            "pair_id": pa.array(["1"], pa.large_string()),
            "category": pa.array(["cat"]).dictionary_encode(),
            "source_xy_px": pa.array([[[1.0, 2.0]]], pa.large_list(pa.list_(pa.float32(), 2))),
            "occlusion": pa.nulls(1),
        }
    )

    conformed = conform(table, PAIRS, "t")

    assert conformed.schema.equals(PAIRS)
    assert conformed["source_xy_px"].to_pylist() == [[[1.0, 2.0]]]


def test_nulls_where_none_may_be() -> None:
    with pytest.raises(SchemaError, match="column pair_id has 1 nulls"):
        conform(pa.table({"pair_id": pa.array([None], pa.string())}), PAIRS, "t")


def test_a_column_given_twice() -> None:
    actual = pa.schema([("pair_id", pa.string()), ("split", pa.string()), ("split", pa.string())])
    with pytest.raises(SchemaError, match="column split occurs 2 times"):
        check_schema(actual, PAIRS, "t")


POINTS = pa.list_(pa.list_(pa.float32()))
TYPES = {
    "PAIRS": {
        **dict.fromkeys(("pair_id", "source_uri", "target_uri", "category", "dataset", "split"), pa.string()),
        **dict.fromkeys(("source_image", "target_image"), pa.binary()),
        **dict.fromkeys(("source_xy_px", "target_xy_px"), POINTS),
        "keypoint_id": pa.list_(pa.string()),
        **dict.fromkeys(("source_box_xyxy", "target_box_xyxy"), pa.list_(pa.float32())),
        **dict.fromkeys(("viewpoint_variation", "scale_variation", "truncation", "occlusion"), pa.int8()),
        "seen_in_training": pa.bool_(),
        **dict.fromkeys(("target_category", "level", "flow_format"), pa.string()),
        "keypoint_probability": pa.list_(pa.float32()),
        **dict.fromkeys(("source_visibility", "target_visibility"), pa.list_(pa.int8())),
        **dict.fromkeys(("source_all_xy_px", "target_all_xy_px"), POINTS),
        **dict.fromkeys(("source_all_keypoint_id", "target_all_keypoint_id"), pa.list_(pa.string())),
        **dict.fromkeys(("mirror_keypoint_ids", "geometry_groups"), pa.list_(pa.list_(pa.string()))),
        "target_valid_xy_px": pa.list_(POINTS),
        **dict.fromkeys(("source_other_boxes_xyxy", "target_other_boxes_xyxy"), POINTS),
        "azimuth_difference": pa.int8(),
        "mirrored": pa.bool_(),
        **dict.fromkeys(("source_flow_uri", "target_flow_uri", "source_mask_uri", "target_mask_uri"), pa.string()),
    },
    "MATCHES": {
        **dict.fromkeys(("pair_id", "direction", "status", "error_stage", "error_kind", "error_message"), pa.string()),
        **dict.fromkeys(("flow_dtype", "matcher", "fingerprint", "worker"), pa.string()),
        "attempt": pa.int32(),
        **dict.fromkeys(("query_hw", "reference_hw", "flow_hw"), pa.list_(pa.int32())),
        **dict.fromkeys(("query_xy_px", "reference_xy_px"), POINTS),
        **dict.fromkeys(("point_confidence", "point_cycle_error_px", "point_margin"), pa.list_(pa.float32())),
        **dict.fromkeys(("flow", "flow_confidence"), pa.binary()),
        "flow_scale": pa.float64(),
        "answer_grid_hw": pa.list_(pa.int32()),
        "scored_keypoint_id": pa.list_(pa.string()),
        **dict.fromkeys(("score_inside", "score_outside"), pa.list_(pa.list_(pa.float32()))),
        "score_lowest": pa.float32(),
        "milliseconds": pa.struct([("decode", pa.float32()), ("match", pa.float32())]),
    },
    "METRICS": {
        **dict.fromkeys(("dataset", "protocol", "direction", "subset", "group_kind", "group"), pa.string()),
        **dict.fromkeys(("n_pairs", "n_points", "n_failed"), pa.int64()),
        **{
            f"pck_{name}{end}": pa.float64()
            for name in ("image", "point", "class_mean")
            for end in ("", "_low", "_high")
        },
        **{
            f"{name}_{average}": pa.float64()
            for name in ("ceiling", "jitter", "miss", "swap", "twin", "both")
            for average in ("image", "point")
        },
        **dict.fromkeys(("alpha", "kap"), pa.float64()),
    },
}


@pytest.mark.parametrize("schema", [PAIRS, MATCHES, METRICS], ids=list(TYPES))
def test_the_types_that_are_written_are_those_that_every_reader_knows(schema: pa.Schema) -> None:
    """pyarrow up to 25 cannot read a fixed_size_list with nulls from Parquet."""
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    written = pq.read_schema(file)

    assert {field.name: field.type for field in written} == TYPES[schema.metadata[b"table"].decode()]
    assert "fixed_size_list" not in str(written)
    assert written.metadata == schema.metadata


def test_tables_of_the_version_before_are_read_with_the_same_values() -> None:
    points = [[[1.5, 2.0], [3.0, 4.0]], None, []]
    pairs = {"pair_id": ["a", "b", "c"], "source_xy_px": points, "source_box_xyxy": [None, [1.0, 2.0, 3.0, 4.0], None]}
    matches = {
        **{name: ["x"] * 3 for name in ("pair_id", "direction", "status", "matcher", "fingerprint")},
        **{"attempt": [1] * 3, "query_xy_px": points, "query_hw": [None, [3, 4], [5, 6]]},
    }
    for values, schema in ((pairs, PAIRS), (matches, MATCHES)):
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        earlier = pa.Table.from_pylist(rows, as_earlier(schema))

        read = conform(earlier.slice(1), schema, "earlier")

        assert read.schema.equals(schema, check_metadata=True)
        assert read.select(list(values)).to_pydict() == {name: column[1:] for name, column in values.items()}


def test_a_null_list_of_a_fixed_size_with_numbers_beneath_it() -> None:
    """Arrow keeps numbers also for a null list of a fixed size; they are no values."""
    numbers = pa.array([1, 2, 3, 4, 5, 6, 7, 8], pa.float32())
    boxes = pa.FixedSizeListArray.from_arrays(numbers, 4, mask=pa.array([True, False]))

    read = conform(pa.table({"pair_id": ["a", "b"], "source_box_xyxy": boxes}), PAIRS, "t")

    assert read["source_box_xyxy"].to_pylist() == [None, [5, 6, 7, 8]]
    assert read["source_box_xyxy"].combine_chunks().flatten().to_pylist() == [5, 6, 7, 8]


ROWS = [
    {
        "pair_id": "a",
        "category": "cat",
        "source_xy_px": [[1.5, 2.0], [3.0, 4.0]],
        "keypoint_id": ["nose", "tail"],
        "source_box_xyxy": [1.0, 2.0, 3.0, 4.0],
        "occlusion": 3,
        "seen_in_training": True,
    },
    {"pair_id": "b", "category": "dog"},
    {"pair_id": "c", "category": "cat", "source_xy_px": [], "keypoint_id": []},
]


@pytest.mark.parametrize("kept", [["a", "b", "c"], ["a", "c"], ["b"], ["c"]])
def test_what_pandas_filtered_is_what_it_was(kept: list[str]) -> None:
    """pandas makes double of int8 with nulls, text of its own type, and a column of the rows' numbers."""
    pairs = pa.Table.from_pylist(ROWS, PAIRS)
    frame = pairs.to_pandas()
    file = io.BytesIO()
    frame[frame["pair_id"].isin(kept)].to_parquet(file)
    written = pq.read_table(file)

    read = conform(written, PAIRS, "filtered")

    assert read.to_pylist() == [row for row in pairs.to_pylist() if row["pair_id"] in kept]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("occlusion", pa.array([1.0, np.nan, None]), [1, None, None]),
        ("occlusion", pa.array([1, None, 3], pa.uint64()), [1, None, 3]),
        ("occlusion", pa.array([Decimal("1.0"), None, Decimal("3.0")]), [1, None, 3]),
        ("seen_in_training", pa.array([1.0, 0.0, np.nan]), [True, False, None]),
        ("category", pa.array([np.nan, None, np.nan]), [None, None, None]),
        ("category", pa.array(["a", None, "b"], pa.string_view()), ["a", None, "b"]),
        (
            "category",
            pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), pa.array(["a", "b"], pa.large_string())),
            ["a", None, "b"],
        ),
        ("source_xy_px", pa.array([[[1, 2]], [], None]), [[[1, 2]], [], None]),
        ("source_xy_px", pa.array([[[0.1, 2.5]], [], None]), [[[float(np.float32(0.1)), 2.5]], [], None]),
        ("source_xy_px", pa.array([[[Decimal("1.5"), Decimal("2.0")], None], None, []]), [[[1.5, 2], None], None, []]),
        ("source_xy_px", pa.array([[], [], None]), [[], [], None]),
        (
            "source_box_xyxy",
            pa.array([[1, 2, 3, 4], None, None], pa.large_list(pa.int64())),
            [[1, 2, 3, 4], None, None],
        ),
        ("source_image", pa.array([{"bytes": None, "path": "p"}, None, None]), [None, None, None]),
        (
            "source_image",
            pa.array([{"bytes": b"x", "path": None}, None, {"bytes": b"", "path": "p"}]),
            [b"x", None, b""],
        ),
    ],
)
def test_types_of_other_software_that_hold_the_same_values(
    column: str, values: pa.Array, expected: list[object]
) -> None:
    read = conform(pa.table({"pair_id": ["1", "2", "3"], column: values}), PAIRS, "t")

    assert read.schema.equals(PAIRS)
    assert read[column].to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("occlusion", [1.0, None, 2.5], "mine, row 13: column occlusion is 2.5, which is no int8"),
        ("occlusion", [300, 1, 2], "mine, row 11: column occlusion is 300, which is no int8"),
        ("seen_in_training", [0, 2, 1], "mine, row 12: column seen_in_training is 2, which is no bool"),
        ("category", [None, 1.5, None], "mine, row 12: column category is 1.5, which is no string"),
        (
            "source_xy_px",
            [[[1, 2], [3, 4]], None, [[1, 2], [1, 2, 3]]],
            r"mine, row 13: column source_xy_px is \[\[1, 2\], \[1, 2, 3\]\], which is no .* of 2 numbers each",
        ),
        ("source_box_xyxy", [None, [1, 2], None], r"mine, row 12: column source_box_xyxy is \[1, 2\], .* of 4 numbers"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_row(column: str, values: list[object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        conform(pa.table({"pair_id": ["1", "2", "3"], column: pa.array(values)}), PAIRS, "mine", first_row=10)


def test_the_index_of_pandas_is_no_unknown_column() -> None:
    frame = pd.DataFrame({"pair_id": ["a", "b"]})[1:]
    assert conform(pa.Table.from_pandas(frame), PAIRS, "t")["pair_id"].to_pylist() == ["b"]
    assert conform(pa.Table.from_pandas(frame.reset_index()), PAIRS, "t").num_rows == 1
