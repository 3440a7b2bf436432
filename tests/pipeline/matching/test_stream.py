"""The stages of a match job, called without Ray."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from make import match_rows, run_description, write_image_pairs

from pipeline.io import storage
from pipeline.matching.decode import Chunk
from pipeline.matching.options import THREADS, MatchConfig, MatchOptions
from pipeline.matching.stream import MatchStageConfig, MatchWorker, commit, decode_slice
from pipeline.runs.folder import open_run
from pipeline.runs.parts import list_parts, part_sizes, read_matches


@pytest.fixture
def config(tmp_path: Path) -> MatchStageConfig:
    return MatchStageConfig(
        run=open_run(str(tmp_path / "run"), run_description(), dry_run=True),
        attempt=3,
        stop_file=str(tmp_path / "run" / "stop"),
        in_progress_folder=str(tmp_path / "run" / "begun"),
        device="cpu",
        workers=(1, 1),
        matching=MatchConfig(
            matcher="slow_matcher:SlowMatcher",
            options=MatchOptions(directions=("source_to_target", "target_to_source")),
        ),
    )


@pytest.fixture
def row(tmp_path: Path) -> pa.Table:
    """A slice of a manifest of ten pairs, as Ray hands it on: pairs 7, 2 and 4."""
    file = write_image_pairs(tmp_path / "images", 10)
    return pa.table({"file": [file], "row_group": [0], "rows": [np.array([7, 2, 4], np.int32).tobytes()]})


@pytest.fixture
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
def test_a_slice_is_decoded_matched_and_committed(config: MatchStageConfig, row: pa.Table) -> None:
    torch.set_num_threads(THREADS + 1)
    (decoded,) = decode_slice(row, config)
    rows = MatchWorker(config)(decoded)
    summary = commit(rows, config)

    assert torch.get_num_threads() == THREADS
    (part,) = summary.to_pylist()
    assert part["reasons"] == [{"reason": "ok", "rows": 6}]
    assert part_sizes(config.run.out) == {storage.join(config.run.out, "parts", part["part"]): part["bytes"]}
    assert part["match_seconds"] > 0
    committed = read_matches(config.run.out)
    assert set(committed["pair_id"].to_pylist()) == {"pair-0002", "pair-0004", "pair-0007"}
    assert set(committed["attempt"].to_pylist()) == {3}
    assert storage.list_files(config.in_progress_folder, "") == []


def test_a_slice_is_read_in_the_order_of_its_rows(config: MatchStageConfig, row: pa.Table) -> None:
    (decoded,) = decode_slice(row, config)

    assert [pair["pair_id"] for pair in Chunk.from_row(decoded).pairs] == ["pair-0007", "pair-0002", "pair-0004"]


@pytest.mark.usefixtures("_threads")
def test_after_a_request_to_stop_nothing_new_is_begun(config: MatchStageConfig, row: pa.Table) -> None:
    (decoded,) = decode_slice(row, config)
    worker = MatchWorker(config)
    storage.write_bytes(config.stop_file, b"")

    (nothing,) = decode_slice(row, config)
    rows = worker(decoded)

    assert nothing.num_rows == 0
    assert nothing.schema == decoded.schema
    assert rows.num_rows == 0
    assert commit(rows, config).num_rows == 0
    assert list_parts(config.run.out) == []


def test_reasons_are_counted(config: MatchStageConfig) -> None:
    gone = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
    cut = {"status": "error", "error_stage": "decode", "error_kind": "truncated"}
    rows = match_rows(*({"pair_id": str(n), **(gone if n < 2 else cut if n < 3 else {})} for n in range(7)))

    summary = commit(rows, config)

    counts = {entry["reason"]: entry["rows"] for entry in summary["reasons"][0].as_py()}
    assert counts == {"ok": 4, "fetch: not_found": 2, "decode: truncated": 1}
    assert read_matches(config.run.out).num_rows == 7


def test_decoding_and_committing_load_no_torch() -> None:
    script = "import sys; import pipeline.matching.stream; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
