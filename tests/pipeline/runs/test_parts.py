import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from earlier_tables import as_earlier
from installed import needs
from lost_rows import write_with_lost_row
from make import match_rows

from pipeline.runs.flow_codec import encode_flow
from pipeline.runs.parts import list_parts, part_sizes, read_matches, read_parts, write_part
from schemas.check import SchemaError
from schemas.matches import MATCHES


def test_a_part_written_twice_is_one_part(tmp_path: Path) -> None:
    rows = match_rows({"pair_id": "a"}, {"pair_id": "b"})

    first = write_part(str(tmp_path), rows)
    again = write_part(str(tmp_path), rows.take([1, 0]))

    assert first == again
    assert len(list_parts(str(tmp_path))) == 1


def test_ok_beats_error_then_the_later_attempt(tmp_path: Path) -> None:
    failed = {"status": "error", "error_kind": "not_found"}
    write_part(str(tmp_path), match_rows({"pair_id": "ok then error"}, {"pair_id": "error twice", **failed}))
    write_part(
        str(tmp_path),
        match_rows(
            {"pair_id": "ok then error", "attempt": 2, **failed},
            {"pair_id": "error twice", "attempt": 2, **failed},
            {"pair_id": "late", "attempt": 2},
        ),
    )

    rows = read_matches(str(tmp_path), ["pair_id", "status", "attempt"]).to_pylist()

    assert rows == [
        {"pair_id": "error twice", "status": "error", "attempt": 2},
        {"pair_id": "late", "status": "ok", "attempt": 2},
        {"pair_id": "ok then error", "status": "ok", "attempt": 1},
    ]


def test_directions_are_rows_of_their_own(tmp_path: Path) -> None:
    write_part(str(tmp_path), match_rows({"pair_id": "a"}, {"pair_id": "a", "direction": "target_to_source"}))

    assert read_matches(str(tmp_path))["direction"].to_pylist() == ["source_to_target", "target_to_source"]


@needs("pyarrow", "26", "cannot read null in a list of a fixed size, which earlier versions of nemf wrote")
def test_parts_of_the_version_before_and_of_this_one_are_one_run(tmp_path: Path) -> None:
    points = [[1.5, 2.0], [3.0, 4.0]]
    old = [
        {"pair_id": "a", "query_xy_px": points, "query_hw": [3, 4], **encode_flow(np.ones((3, 4, 2)))},
        {"pair_id": "b", "query_xy_px": None, "query_hw": None},
    ]
    folder = tmp_path / "parts"
    folder.mkdir()
    earlier = pa.Table.from_pylist(match_rows(*old).to_pylist(), as_earlier(MATCHES))
    pq.write_table(earlier, folder / "part-0.parquet")
    write_part(str(tmp_path), match_rows({"pair_id": "c", "query_xy_px": points, "query_hw": [5, 6]}))

    rows = read_matches(str(tmp_path))

    assert rows.schema.equals(MATCHES)
    assert rows["query_xy_px"].to_pylist() == [points, None, points]
    assert rows["query_hw"].to_pylist() == [[3, 4], None, [5, 6]]
    assert rows["flow_hw"].to_pylist() == [[3, 4], None, None]


def test_an_unfinished_file_is_no_part(tmp_path: Path) -> None:
    write_part(str(tmp_path), match_rows({"pair_id": "a"}))
    (tmp_path / "parts" / ".part-1.parquet.tmp").write_bytes(b"half")
    (tmp_path / "parts" / ".part-2.parquet").write_bytes(b"half")

    assert read_matches(str(tmp_path))["pair_id"].to_pylist() == ["a"]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    name = write_part(str(tmp_path), match_rows({"pair_id": "a"})).name
    part = tmp_path / "parts" / name
    part.write_bytes(part.read_bytes()[:-20])

    with pytest.raises(ValueError, match=f"{name} is not a Parquet file"):
        read_matches(str(tmp_path))


def test_a_listing_that_saw_neither_the_old_parts_nor_the_new_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing by pages, as of object storage: the first page was made before a compaction, the second after it."""
    out = str(tmp_path)
    old, new = (write_part(out, match_rows(*rows)).name for rows in ([{"pair_id": "a"}], [{"pair_id": "b"}]))
    sizes = part_sizes(out)
    partly, later = ({file: n for file, n in sizes.items() if file.endswith(name)} for name in (old, new))
    listings = iter([partly, later, later, later])
    monkeypatch.setattr("pipeline.runs.parts.part_sizes", lambda _: next(listings))

    assert read_matches(out)["pair_id"].to_pylist() == ["b"]


def test_nothing_committed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileNotFoundError, match="no matches at"):
            read_matches(str(out))


def test_one_matches_file_is_its_own_part(tmp_path: Path) -> None:
    file = tmp_path / "matches.parquet"
    pq.write_table(match_rows({"pair_id": "a"}), file)
    assert part_sizes(str(file)) == {str(file): file.stat().st_size}
    assert list_parts(str(file)) == [str(file)]


def test_rows_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="column direction is missing"):
        write_part(str(tmp_path), pa.table({"pair_id": ["a"]}))


def test_parts_say_their_schema_run_and_fingerprint(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    name = write_part(str(tmp_path), match_rows({"pair_id": "a"}), run_id="r").name

    metadata = pq.read_schema(tmp_path / "parts" / name).metadata
    assert metadata[b"schema_version"] == MATCHES.metadata[b"schema_version"]
    assert (metadata[b"fingerprint"], metadata[b"run_id"]) == (b"f", b"r")


def test_flow_is_read_back_by_the_documented_lines(tmp_path: Path) -> None:
    """The three lines of schemas.matches, on a row read with pandas alone."""
    import numpy
    import pandas
    import pyarrow

    flow_px = np.random.default_rng(0).normal(0, 50, (7, 5, 2)).astype(np.float32)
    name = write_part(str(tmp_path), match_rows({"pair_id": "a", **encode_flow(flow_px)})).name
    row = pandas.read_parquet(tmp_path / "parts" / name).iloc[0]

    shape = (*row.flow_hw, 2)
    raw = pyarrow.decompress(row.flow, int(numpy.prod(shape)) * 2, codec="zstd")
    rises = numpy.frombuffer(raw, row.flow_dtype).reshape(shape)
    read_px = rises.cumsum(axis=0, dtype=row.flow_dtype) * row.flow_scale

    assert json.dumps(row.flow_scale) == "0.015625"
    assert np.abs(read_px - flow_px).max() <= row.flow_scale / 2


def test_a_part_with_fewer_rows_than_its_footer_says_is_damaged(tmp_path: Path):
    """Arrow reads it without a word, and pairs would be missing."""
    rows = match_rows(*({"pair_id": f"{n}"} for n in range(20)))
    file = write_with_lost_row(tmp_path / "a.parquet", rows, ["pair_id"])

    with pytest.raises(ValueError, match=r"a\.parquet is damaged: there are 19 rows to be read, and 20 by its footer"):
        list(read_parts({file: Path(file).stat().st_size}, ["pair_id"]))
