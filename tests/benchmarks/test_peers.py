"""The peers answer alike, and what a kill leaves is counted; the measured times are not asserted."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import peer_programs, peers
from benchmarks.synthetic_manifest import write_manifest
from nemf import load_matcher

HALVES = """
import sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq

pairs, out = pq.read_table(sys.argv[1]), Path(sys.argv[2])
out.mkdir(exist_ok=True)
answers = pa.table({"pair_id": pairs["pair_id"], "reference_xy_px": pairs["source_xy_px"]})
done = len(list(out.iterdir()))
pq.write_table(answers.slice(0, 2), out / f"{done}.parquet")
(out / f"{done}-begun.parquet").write_bytes(b"PAR1")
time.sleep(3 if done == 0 and "killed" in out.name else 0)
(out / f"{done}-begun.parquet").unlink()
pq.write_table(answers.slice(2), out / f"{done}-rest.parquet")
"""
"""A program that stores its first two pairs, begins a file, takes its time where it is to be killed, and goes on."""


def test_every_program_stores_what_the_matcher_answers(tmp_path: Path):
    pairs = write_manifest(tmp_path, 6, 3, image_hw=(12, 16))
    arguments = argparse.Namespace(pairs=pairs, matcher="identity", backbone_weights=None, workers=1, batch_pairs=2)
    peer_programs.plain(argparse.Namespace(**vars(arguments), out=str(tmp_path / "plain")))
    peer_programs.dataloader(argparse.Namespace(**vars(arguments), out=str(tmp_path / "dataloader")))
    rows = pq.read_table(pairs)
    (tmp_path / "ray").mkdir()
    pq.write_table(peer_programs.RayWorker(arguments)(rows), tmp_path / "ray" / "0.parquet")

    matcher = load_matcher("identity", device="cpu")
    for program in ("plain", "dataloader", "ray"):
        stored = pq.read_table(tmp_path / program).to_pylist()
        assert [row["pair_id"] for row in stored] == rows["pair_id"].to_pylist()
        for row, pair in zip(stored, rows.to_pylist(), strict=True):
            rgb = np.zeros((12, 16, 3), np.uint8)
            expected = matcher.match(rgb, rgb, pair["source_xy_px"]).reference_xy_px
            np.testing.assert_array_equal(np.array(row["reference_xy_px"], np.float32), expected)


def test_what_a_kill_leaves_and_a_second_start_does_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "halves.py"
    script.write_text(HALVES)
    monkeypatch.setattr(peers, "PROGRAMS", {})
    monkeypatch.setattr(
        peers, "_command", lambda config, program, pairs, out: [sys.executable, str(script), str(pairs), str(out)]
    )
    watch = peers.watch

    def kill_when_begun(command, kill_when=None):
        begun = Path(command[-1], "0-begun.parquet")
        return watch(command, kill_when and (lambda cpu_seconds: begun.exists()))

    monkeypatch.setattr(peers, "watch", kill_when_begun)

    (row,) = peers.run(peers.Config(rows=(5,), images=3, out=str(tmp_path)))

    assert row.kill is not None
    assert (row.pairs, row.moved) == (5, 0)
    assert (row.kill.pairs_left, row.kill.broken_files, row.kill.rows_twice) == (2, 1, 2)
    assert row.cpu_seconds > 0
    assert row.peak_mb > 10
    assert "| 5 | nemf match | 2 | 1 |" in (tmp_path / "peers.md").read_text()


def test_points_that_are_elsewhere_are_counted():
    first = {"a": np.array([[0.0, 0.0], [5.0, 5.0]]), "b": np.zeros((2, 2))}
    other = {"a": np.array([[0.0, 0.4], [5.0, 5.6]]), "b": np.zeros((2, 2))}

    assert peers.moved(first, other) == 0.25


def test_a_program_that_fails_is_an_error_with_what_it_printed():
    with pytest.raises(RuntimeError, match=r"exit code 3: .*\n.*no such thing"):
        peers.watch([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])
