"""Checks that a table has its schema, and converts what other software wrote where no value changes."""

import bisect
import re

import pyarrow as pa
import pyarrow.compute as pc

from schemas.types import LIST_SIZES

_EARLIER_VERSIONS = {b"PAIRS": (b"1", b"2", b"3"), b"MATCHES": (b"2", b"3", b"4"), b"METRICS": (b"1",)}
"""Versions that lack columns, or hold the same values in lists of a fixed size."""
_TABLES = (b"PAIRS", b"MATCHES", b"METRICS")
_INDEX_COLUMN = re.compile(r"|__index_level_\d+__|Unnamed: \d+|index|level_\d+")


class SchemaError(ValueError):
    """A table does not have the schema it should; the message lists every difference."""


class OtherTableError(SchemaError):
    """A table is another one than expected, as its metadata say."""


def is_index_column(name: str) -> bool:
    """Whether a column is the index of a pandas table: __index_level_0__ in Parquet, a column without a name in CSV."""
    return _INDEX_COLUMN.fullmatch(name) is not None


def check_schema(actual: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Raise SchemaError, naming `where` and every difference, unless `actual` has the columns of `expected`.

    Column order is free, and the index of a pandas table may be there. A nullable column may be absent (it then counts
    as all null). A type may be another that can hold the same values: Arrow's `large_` and view variants, lists of a
    fixed size, numbers of another type, whole numbers with NaN for null, a struct {bytes, path} for an image. Whether
    the values fit is for `conform` to say. If the table's metadata name another schema, the error says only that.
    """
    table = (expected.metadata or {}).get(b"table", b"")
    other = (actual.metadata or {}).get(b"table")
    if table and other in _TABLES and other != table:
        raise OtherTableError(f"{where} is a {other.decode()} table, expected {table.decode()}")
    differences = []
    actual_version, version = ((schema.metadata or {}).get(b"schema_version") for schema in (actual, expected))
    if actual_version and version and actual_version not in (version, *_EARLIER_VERSIONS.get(table, ())):
        differences.append(
            f"it was written as version {actual_version.decode(errors='replace')}, and version {version.decode()} is "
            "what is read now: make it again"
        )
    for field in expected:
        if field.name not in actual.names:
            if not field.nullable:
                differences.append(f"column {field.name} is missing (schema says {field.type})")
            continue
        if actual.names.count(field.name) > 1:
            differences.append(f"column {field.name} occurs {actual.names.count(field.name)} times")
            continue
        kind = actual.field(field.name).type
        is_missing = field.nullable and (pa.types.is_null(kind) or pa.types.is_floating(kind))  # pandas: NaN for null
        if not (is_missing or _may_hold(kind, field.type)):
            differences.append(f"column {field.name} is {kind}, schema says {field.type}")
    unknown = [name for name in actual.names if name not in expected.names and not is_index_column(name)]
    differences += [f"column {name} is not in the schema" for name in unknown]
    if differences:
        raise SchemaError(f"{where} is not a {table.decode()} table: " + "; ".join(differences))


def conform(table: pa.Table, expected: pa.Schema, where: str, *, first_row: int = 0) -> pa.Table:
    """The table with exactly the columns, order, types and metadata of `expected`.

    Absent nullable columns become null; numbers of points and boxes are rounded to float32. Raises SchemaError where
    check_schema does, where a column that may not be null has nulls, where text is not UTF-8, and for a value that the
    column's type cannot hold, naming its row.
    first_row: the number of rows of `where` that come before the table.
    """
    check_schema(table.schema, expected, where)
    columns = []
    for field in expected:
        if field.name in table.column_names:
            column = _converted(table[field.name], field, where, first_row)
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                raise SchemaError(f"{where}: column {field.name} is damaged: {error}") from error
        else:
            column = pa.nulls(table.num_rows, field.type)
        if not field.nullable and column.null_count:
            raise SchemaError(f"{where}: column {field.name} has {column.null_count} nulls and may have none")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=expected)


def has_exact_type(actual: pa.Field, expected: pa.Field) -> bool:
    """Whether every value of a column is known to be one of its schema's by its type alone."""
    return actual.type == expected.type and expected.name not in LIST_SIZES


def _may_hold(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of one type can be values of another."""
    if pa.types.is_null(kind):
        return False
    if pa.types.is_dictionary(kind):
        return _may_hold(kind.value_type, expected)
    if pa.types.is_list(expected):
        return _is_list(kind) and (pa.types.is_null(kind.value_type) or _may_hold(kind.value_type, expected.value_type))
    if pa.types.is_string(expected):
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if pa.types.is_binary(expected):
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
            if pa.types.is_null(kind):
                return True
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if pa.types.is_struct(expected):
        return (
            pa.types.is_struct(kind)
            and [field.name for field in kind] == [field.name for field in expected]
            and all(_may_hold(kind.field(field.name).type, field.type) for field in expected)
        )
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return is_number or kind == expected


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _converted(column: pa.ChunkedArray, field: pa.Field, where: str, first_row: int) -> pa.ChunkedArray:
    """The column in the field's type. Raises SchemaError that names the first row whose value does not fit."""
    try:
        return _cast(column, field)
    except (pa.ArrowException, ValueError):
        row = bisect.bisect_left(range(len(column)), True, key=lambda n: not _fits(column.slice(0, n + 1), field))
    value, size = repr(column[row].as_py()), LIST_SIZES.get(field.name)
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    raise SchemaError(
        f"{where}, row {first_row + row + 1}: column {field.name} is {shown}, which is no {field.type}"
        + (f" of {size} numbers each" if size else "")
    )


def _fits(column: pa.ChunkedArray, field: pa.Field) -> bool:
    try:
        _cast(column, field)
    except (pa.ArrowException, ValueError):
        return False
    return True


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The column in the field's type. Raises ValueError or one of Arrow's exceptions if a value does not fit."""
    if pa.types.is_dictionary(column.type) and column.type.value_type != field.type:
        column = column.cast(column.type.value_type)
    kind, expected = column.type, field.type
    if kind == expected and field.name not in LIST_SIZES:
        return column
    if pa.types.is_struct(kind) and pa.types.is_binary(expected):
        column = pc.struct_field(column, "bytes")
    if pa.types.is_floating(kind) and not pa.types.is_floating(expected):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        if column.null_count == len(column):
            return pa.chunked_array([pa.nulls(len(column), expected)])
        if not pa.types.is_integer(expected) and not pa.types.is_boolean(expected):
            raise ValueError("a number")
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if pa.types.is_boolean(expected) and not pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
        if not pc.all(pc.is_in(column, pa.array([0, 1, None])), min_count=0).as_py():
            raise ValueError("neither 0 nor 1")
    column = column.cast(expected)
    size = LIST_SIZES.get(field.name)
    if size is not None:
        innermost = column
        while pa.types.is_list(innermost.type.value_type):
            innermost = pc.list_flatten(innermost)
        if not pc.all(pc.equal(pc.list_value_length(innermost), size), min_count=0).as_py():
            raise ValueError("a list of another length")
    return column
