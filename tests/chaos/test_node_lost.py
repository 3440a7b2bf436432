"""A machine of the cluster dies while it matches: two Ray nodes here, of which one is killed."""

from pathlib import Path

import pytest
from command import SUPPORT
from job_process import MatchProcess
from make import write_image_pairs
from ray_head import another_node, kill, ray_head

from jobs import verify
from pipeline.runs.parts import read_matches

N_PAIRS = 80


def test_what_a_lost_node_had_in_hand_is_done_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))  # of the nodes, which start the workers
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "0.3")
    pairs, out = write_image_pairs(tmp_path / "images", N_PAIRS), tmp_path / "run"
    with ray_head(num_cpus=1) as head, another_node(head, tmp_path / "node.log") as node:
        job = MatchProcess(
            *("--pairs", pairs, "--out", str(out), "--address", head.address, "--slice-pairs", "4", "--workers", "2"),
            log=tmp_path / "job.log",
            **head.environment,
        )
        job.wait_for_parts(out, 3)
        kill(node)

        assert job.wait(400) == 0, job.log.read_text()

    assert read_matches(str(out), ["status"])["status"].to_pylist() == ["ok"] * N_PAIRS
    assert verify.run(verify.Config(out=str(out))).missing == 0
