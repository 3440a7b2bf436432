"""The run folder's parts: how match rows become durable, and how they are read back.

    <out>/parts/part-<key>.parquet    MATCHES rows; a part that is there is committed, whole and never changed

The key is a hash of the fingerprint, the attempt and the rows' pairs, so a part written twice (a worker killed after
its commit) is one part. Two attempts may both answer a pair; readers take one row per pair and direction: ok beats
error, then the later attempt, then the lower part name.
"""

import hashlib
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.manifest import open_parquet
from schemas.check import check_schema, conform
from schemas.matches import MATCHES

KEY_COLUMNS = ("pair_id", "direction", "status", "attempt")
"""What decides which of several rows of a pair is believed, beside the name of its part."""


def write_part(out: str, rows: pa.Table, *, run_id: str = "") -> str:
    """Commit MATCHES rows of one fingerprint and attempt to `<out>/parts`; the part's name.

    Raises SchemaError if the rows are not MATCHES. Writing the same pairs again changes nothing.
    """
    rows = conform(rows, MATCHES, "rows to commit")
    fingerprints, attempts = pc.unique(rows["fingerprint"]), pc.unique(rows["attempt"])
    assert len(fingerprints) == len(attempts) == 1, "a part holds one fingerprint and one attempt"
    fingerprint, attempt = fingerprints[0].as_py(), attempts[0].as_py()
    ids = sorted(f"{p}\0{d}" for p, d in zip(rows["pair_id"].to_pylist(), rows["direction"].to_pylist(), strict=True))
    key = hashlib.sha256("\0\0".join([fingerprint, str(attempt), *ids]).encode()).hexdigest()[:20]
    name = f"part-{key}.parquet"
    buffer = io.BytesIO()
    said = {b"fingerprint": fingerprint.encode(), b"run_id": run_id.encode()}
    table = rows.replace_schema_metadata({**MATCHES.metadata, **said})
    pq.write_table(table, buffer, compression="zstd")
    storage.create_bytes(storage.join(out, "parts", name), buffer.getvalue())
    return name


def list_parts(out: str) -> list[str]:
    """URIs of the committed parts of a run folder, by name; `out` may also be a single MATCHES file."""
    if out.endswith(".parquet") and storage.is_file(out):
        return [out]
    return storage.list_files(storage.join(out, "parts"), ".parquet")


def read_matches(out: str, columns: Sequence[str] | None = None) -> pa.Table:
    """MATCHES rows of a run folder, one per pair and direction, ordered by pair_id and direction.

    columns: what to load (default all). Raises FileNotFoundError if nothing is committed at `out`.
    """
    files = list_parts(out)
    if not files:
        raise FileNotFoundError(f"no matches at {out}: expected a run folder with parts/*.parquet, or one MATCHES file")
    wanted = list(columns) if columns is not None else MATCHES.names
    load = list(dict.fromkeys([*wanted, *KEY_COLUMNS]))
    expected = pa.schema([MATCHES.field(name) for name in load], metadata=MATCHES.metadata)
    tables, ranks = [], []
    for rank, file in enumerate(files):
        with open_parquet(file) as parquet:
            check_schema(parquet.schema_arrow, MATCHES, file)
            table = conform(parquet.read(columns=load), expected, file)
        tables.append(table)
        ranks.append(pa.array([rank] * table.num_rows, pa.int32()))
    rows = pa.concat_tables(tables)
    return rows.take(chosen_rows(rows, pa.chunked_array(ranks))).select(wanted)


def count_reasons(rows: pa.Table) -> dict[str, int]:
    """How many MATCHES rows are 'ok', and how many are errors of each 'stage: kind', in order of name."""
    ok = pc.equal(rows["status"], "ok")
    reasons = pc.if_else(ok, "ok", pc.binary_join_element_wise(rows["error_stage"], rows["error_kind"], ": "))
    return dict(sorted((entry["values"], entry["counts"]) for entry in reasons.value_counts().to_pylist()))


def chosen_rows(rows: pa.Table, part_rank: pa.ChunkedArray) -> pa.Array:
    """Indices of the row to believe for every pair and direction, ordered by these two.

    rows: with KEY_COLUMNS. part_rank: the place of each row's part among all in order of name.
    """
    keys = pa.table(
        {
            "pair_id": rows["pair_id"],
            "direction": rows["direction"],
            "failed": pc.not_equal(rows["status"], "ok"),
            "attempt": rows["attempt"],
            "part": part_rank,
        }
    )
    order = pc.sort_indices(
        keys,
        sort_keys=[
            ("pair_id", "ascending"),
            ("direction", "ascending"),
            ("failed", "ascending"),
            ("attempt", "descending"),
            ("part", "ascending"),
        ],
    )
    if len(order) < 2:
        return order
    pair_id, direction = keys["pair_id"].take(order), keys["direction"].take(order)
    is_first = pc.or_(
        pc.not_equal(pair_id.slice(1), pair_id.slice(0, len(order) - 1)),
        pc.not_equal(direction.slice(1), direction.slice(0, len(order) - 1)),
    )
    return order.filter(pa.chunked_array([pa.array([True]), *is_first.chunks]).combine_chunks())
