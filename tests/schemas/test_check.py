import pyarrow as pa
import pytest

from schemas.check import SchemaError, check_schema, conform
from schemas.pairs import PAIRS


def test_every_difference_is_listed_in_one_error() -> None:
    actual = pa.schema([("source_xy_px", pa.list_(pa.float64())), ("source_uri", pa.int64()), ("colour", pa.string())])

    with pytest.raises(SchemaError) as error:
        check_schema(actual, PAIRS, "mine.parquet")

    message = str(error.value)
    assert "mine.parquet is not a PAIRS table" in message
    assert "column pair_id is missing (schema says string)" in message
    assert (
        "column source_xy_px is list<item: double>, schema says list<item: fixed_size_list<item: float>[2]>" in message
    )
    assert "column source_uri is int64, schema says string" in message
    assert "column colour is not in the schema" in message


def test_a_table_of_another_version_is_refused_and_one_that_does_not_say_is_not() -> None:
    other = PAIRS.with_metadata({"table": "PAIRS", "schema_version": "0"})

    with pytest.raises(SchemaError, match=r"old is not a PAIRS table: it was written as version 0, and version 1 is"):
        check_schema(other, PAIRS, "old")

    check_schema(PAIRS.with_metadata({"pandas": "{}"}), PAIRS, "of pandas")


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
