"""The stages of a match job."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from make import match_rows, run_description, write_image_pairs

from pipeline.io import storage
from pipeline.matching.options import THREADS, MatchConfig, MatchOptions
from pipeline.matching.plan import Slice
from pipeline.matching.stages import MatchStage, StageConfig, commit, decode_slice, load
from pipeline.runs.folder import open_run
from pipeline.runs.parts import part_sizes, read_matches


@pytest.fixture
def config(tmp_path: Path) -> StageConfig:
    return StageConfig(
        run=open_run(str(tmp_path / "run"), run_description(), dry_run=True),
        attempt=3,
        stop_file=str(tmp_path / "run" / "stop"),
        in_progress_folder=str(tmp_path / "run" / "begun"),
        matching=MatchConfig(
            matcher="slow_matcher:SlowMatcher",
            options=MatchOptions(directions=("source_to_target", "target_to_source")),
        ),
    )


@pytest.fixture
def work(tmp_path: Path) -> Slice:
    """A slice of a manifest of ten pairs: pairs 7, 2 and 4."""
    file = write_image_pairs(tmp_path / "images", 10)
    return Slice(file=file, row_group=0, rows=np.array([7, 2, 4], np.int32))


@pytest.fixture
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
def test_a_slice_is_decoded_matched_and_committed(config: StageConfig, work: Slice) -> None:
    torch.set_num_threads(THREADS + 1)
    (decoded,) = decode_slice(work, config)
    stage = MatchStage(config, load(config.matching, "cpu"))
    part = commit(stage.match(decoded), config)

    assert torch.get_num_threads() == THREADS
    assert part["reasons"] == {"ok": 6}
    assert part_sizes(config.run.out) == {storage.join(config.run.out, "parts", part["part"]): part["bytes"]}
    assert part["match_seconds"] > 0
    committed = read_matches(config.run.out)
    assert set(committed["pair_id"].to_pylist()) == {"pair-0002", "pair-0004", "pair-0007"}
    assert set(committed["attempt"].to_pylist()) == {3}
    assert storage.list_files(config.in_progress_folder, "") == []


def test_a_slice_is_read_in_the_order_of_its_rows(config: StageConfig, work: Slice) -> None:
    (decoded,) = decode_slice(work, config)

    assert [pair["pair_id"] for pair in decoded.pairs] == ["pair-0007", "pair-0002", "pair-0004"]


@pytest.mark.usefixtures("_threads")
def test_after_a_request_to_stop_nothing_new_is_begun(config: StageConfig, work: Slice) -> None:
    (decoded,) = decode_slice(work, config)
    stage = MatchStage(config, load(config.matching, "cpu"))
    storage.write_bytes(config.stop_file, b"")

    assert list(decode_slice(work, config)) == []
    assert stage.match(decoded).num_rows == 0


def test_reasons_are_counted(config: StageConfig) -> None:
    gone = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
    cut = {"status": "error", "error_stage": "decode", "error_kind": "truncated"}
    rows = match_rows(*({"pair_id": str(n), **(gone if n < 2 else cut if n < 3 else {})} for n in range(7)))

    part = commit(rows, config)

    assert part["reasons"] == {"ok": 4, "fetch: not_found": 2, "decode: truncated": 1}
    assert read_matches(config.run.out).num_rows == 7


def test_decoding_and_committing_load_no_torch() -> None:
    script = "import sys; import pipeline.matching.stream, pipeline.matching.driver; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
