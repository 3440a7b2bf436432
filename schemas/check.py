"""Checks that a table has its schema; one error lists every difference."""

import pyarrow as pa


class SchemaError(ValueError):
    """A table does not have the schema it should; the message lists every difference."""


def check_schema(actual: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Raise SchemaError, naming `where` and every difference, unless `actual` has the columns of `expected`.

    Column order is free. A nullable column may be absent (it then counts as all null). Arrow's `large_` and view
    variants of a type, and the names of nested list items, hold the same values and are accepted.
    """
    table = (expected.metadata or {}).get(b"table", b"").decode()
    differences = []
    actual_version, version = ((schema.metadata or {}).get(b"schema_version") for schema in (actual, expected))
    if actual_version and version and actual_version != version:
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
        if _plain(kind) != _plain(field.type) and not (pa.types.is_null(kind) and field.nullable):
            differences.append(f"column {field.name} is {kind}, schema says {field.type}")
    unknown = [name for name in actual.names if name not in expected.names]
    differences += [f"column {name} is not in the schema" for name in unknown]
    if differences:
        raise SchemaError(f"{where} is not a {table} table: " + "; ".join(differences))


def conform(table: pa.Table, expected: pa.Schema, where: str) -> pa.Table:
    """The table with exactly the columns, order, types and metadata of `expected`.

    Absent nullable columns become null. Raises SchemaError where check_schema does, where a column that may not be null
    has nulls, and where text is not UTF-8.
    """
    check_schema(table.schema, expected, where)
    columns = []
    for field in expected:
        if field.name in table.column_names:
            column = table[field.name].cast(field.type)
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


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without the differences that do not change values: large_ or view variants, item field names."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind
