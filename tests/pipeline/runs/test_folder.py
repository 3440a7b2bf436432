from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runs.counts import count_run
from pipeline.runs.folder import OtherRunError, open_run, read_run, read_success, run_fingerprint
from pipeline.runs.folder import write_success as finish

CONFIG = {"matcher": "one", "backbone_weights": None, "outputs": ("flow",), "direction": "both", "limit": None}
RUN = {"fingerprint": "aaa", "manifest_digest": "m1", "image_root": None, "config": CONFIG}


def test_the_same_run_is_opened_again_whatever_its_limit(tmp_path: Path) -> None:
    run_id = open_run(str(tmp_path), RUN)

    assert open_run(str(tmp_path), {**RUN, "config": {**CONFIG, "limit": 7}}) == run_id


def test_another_run_is_refused_with_both_fingerprints_and_what_changed(tmp_path: Path) -> None:
    open_run(str(tmp_path), RUN)

    with pytest.raises(OtherRunError, match=r"is bbb, the folder's is aaa \(changed: matcher: 'one' -> 'two'\)"):
        open_run(str(tmp_path), {**RUN, "fingerprint": "bbb", "config": {**CONFIG, "matcher": "two", "limit": 7}})
    with pytest.raises(OtherRunError, match="manifest digest is m2, the folder's is m1"):
        open_run(str(tmp_path), {**RUN, "manifest_digest": "m2"})
    with pytest.raises(OtherRunError, match="image root is /b, the folder's is None"):
        open_run(str(tmp_path), {**RUN, "image_root": "/b"})


@pytest.mark.parametrize("content", [b"", b"{}", b"[1"])
def test_a_damaged_run_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_run(str(tmp_path))


def test_the_fingerprint_is_of_the_matcher_and_the_options() -> None:
    prints = {
        run_fingerprint(matcher, {"outputs": outputs})
        for matcher in ("m1", "m2")
        for outputs in (("flow",), ("keypoints", "flow"))
    }
    assert len(prints) == 4


def test_success_is_not_written_while_rows_are_missing(tmp_path: Path) -> None:
    count = count_run(str(tmp_path), pa.chunked_array([["a"]]), ("source_to_target",), "f", limit=1)

    with pytest.raises(RuntimeError, match="1 of 1 rows are neither answered nor failed"):
        finish(str(tmp_path), count, None)

    assert read_success(str(tmp_path)) is None
