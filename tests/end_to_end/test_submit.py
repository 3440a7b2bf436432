"""Jobs on a real head that requires a token: nemf submit, and Ray's own command."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from make import encoded, noise_rgb, write_image_pairs
from planted_run import LOG_ODDS, identity_share, plant_run, rows_of
from ray_head import BIN, RayHead, ray_head

from pipeline.runs.parts import list_parts, read_matches
from schemas.matches import RESULT_COLUMNS

N_PAIRS = 16
SUPPORT = Path(__file__).parents[1] / "support"
SUBMIT = [sys.executable, "-m", "jobs.submit"]
HEARS_CTRL_C = ["env", "--default-signal=INT"]
"""Prefix of a command that makes it receive SIGINT, which processes started in the background by a shell ignore."""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as head:
        yield head


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_image_pairs(tmp_path_factory.mktemp("images"), N_PAIRS)


def test_a_submitted_job_runs_there_and_its_log_and_exit_code_come_back(
    head: RayHead, pairs: str, tmp_path: Path
) -> None:
    out = tmp_path / "it's a run"
    match = ["match", "--pairs", pairs, "--out", str(out), "--matcher", "identity", "--workers", "1,2"]

    done = head.run(
        *SUBMIT, "--address", head.dashboard, "--env", "PLANTED", "--", *match, "--slice-pairs", "4", PLANTED="not seen"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_matches(str(out), RESULT_COLUMNS)
    assert rows["status"].to_pylist() == ["ok"] * N_PAIRS
    assert [[x for x, _ in points] for points in rows["reference_xy_px"].to_pylist()] == [[1, 10, 30]] * N_PAIRS
    assert f"{N_PAIRS} pairs: 0 done, {N_PAIRS} to do in 4 slices" in done.stdout
    assert "with PLANTED" in done.stderr
    assert "not seen" not in done.stdout + done.stderr


def test_photographs_are_paired_and_matches_labelled_there(head: RayHead, tmp_path: Path) -> None:
    """The job embeds images on the cluster that it runs on; pseudo-label needs no Ray there."""
    photographs, proposed, labels = tmp_path / "photographs", tmp_path / "p.parquet", tmp_path / "labels.parquet"
    photographs.mkdir()
    for number in range(3):
        (photographs / f"{number}.png").write_bytes(encoded(noise_rgb(number, (40, 40)), "PNG"))
    prepare = ["--dataset", "folder", "--root", str(photographs), "--pairing", "neighbours", "--out", str(proposed)]
    run, pairs = plant_run(tmp_path, 20)
    content = {
        **{"format": "nemf calibration", "version": 1, "matcher": "planted", "matcher_fingerprint": "own"},
        **{"protocol": "spair", "alpha": 0.1, "made_on": {}, "quality": {}},
        **{"signals": {"confidence": identity_share()}, "intercept": -LOG_ODDS},
    }
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    label = ["--pairs", pairs, "--matches", run, "--calibration", str(tmp_path / "calibration.json")]

    paired = head.run(*SUBMIT, "--address", head.dashboard, "--", "prepare", *prepare)
    labelled = head.run(*SUBMIT, "--address", head.dashboard, "--", "pseudo-label", *label, "--out", str(labels))

    assert paired.returncode == 0, paired.stdout + paired.stderr
    assert "3 pairs" in paired.stdout
    assert {row["pair_id"] for row in rows_of(proposed)} <= {f"{a}.png:{b}.png" for a in range(3) for b in range(3)}
    assert labelled.returncode == 0, labelled.stdout + labelled.stderr
    assert "are expected to be right, 90." in labelled.stdout
    assert min(min(row["keypoint_probability"]) for row in rows_of(labels)) > 0.5


def test_ctrl_c_stops_the_job_gracefully_and_rays_own_line_finishes_it(
    head: RayHead, pairs: str, tmp_path: Path
) -> None:
    """The matcher is in the folder of --working-dir, as in a checkout."""
    out, log = tmp_path / "run", tmp_path / "log"
    match = ["--pairs", pairs, "--out", str(out), "--matcher", "slow_matcher:SlowMatcher", "--slice-pairs", "2"]
    sent = ["--address", head.dashboard, "--working-dir", str(SUPPORT)]
    with log.open("w") as file:
        job = subprocess.Popen(
            [*HEARS_CTRL_C, *SUBMIT, *sent, "--env", "SLOW_MATCHER_SECONDS", "--", "match", *match, "--workers", "1"],
            env=head.environment | {"SLOW_MATCHER_SECONDS": "2"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    _wait_for_a_part(job, out, log)
    job.send_signal(signal.SIGINT)

    assert job.wait(600) == 130, log.read_text()
    said = log.read_text()
    assert "stopping the job" in said
    assert "SIGTERM: finishing what is in flight" in said
    assert re.search(r"^interrupted: what was in flight is committed", said, re.MULTILINE)
    assert re.search(r"^interrupted: raysubmit_\w+ was stopped; submit the same command again", said, re.MULTILINE)
    n_committed = read_matches(str(out)).num_rows
    assert 0 < n_committed < N_PAIRS

    again = ["python", "-m", "jobs.match", *match, "--workers", "1"]
    done = head.run(str(BIN / "ray"), "job", "submit", *sent, "--", *again)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{N_PAIRS} pairs: {n_committed} done" in done.stdout
    assert read_matches(str(out), ["status"])["status"].to_pylist() == ["ok"] * N_PAIRS


def _wait_for_a_part(job: subprocess.Popen[bytes], out: Path, log: Path) -> None:
    deadline = time.monotonic() + 600
    while not list_parts(str(out)):
        assert job.poll() is None, f"the job ended early:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"waited in vain:\n{log.read_text()}"
        time.sleep(0.1)


def test_a_job_that_fails_fails_here_too(head: RayHead, tmp_path: Path) -> None:
    done = head.run(*SUBMIT, "--", "verify", str(tmp_path), RAY_API_SERVER_ADDRESS=head.dashboard)

    assert done.returncode == 2
    assert "is no run folder" in done.stdout
    assert re.search(r"^error: raysubmit_\w+ ended with exit code 2, see its log above$", done.stderr, re.MULTILINE)


def test_without_waiting_the_id_is_all_there_is_on_stdout(head: RayHead, tmp_path: Path) -> None:
    done = head.run(*SUBMIT, "--address", head.dashboard, "--no-wait", "--", "verify", str(tmp_path))

    assert done.returncode == 0
    assert re.fullmatch(r"raysubmit_\w+\n", done.stdout)
    assert f"ray job logs --follow --address {head.dashboard} {done.stdout}" in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_TOKEN": "another-token"}, "Authentication failed: .*Invalid authentication token"),
        ({"RAY_AUTH_MODE": "disabled"}, "Authentication required: .*Missing authentication token"),
    ],
)
def test_a_head_that_refuses_the_token_is_one_line(head: RayHead, environment: dict[str, str], message: str) -> None:
    done = head.run(*SUBMIT, "--address", head.dashboard, "--", "verify", "/nowhere", **environment)

    assert done.returncode == 2
    assert re.fullmatch(rf"error: {message}: the Ray at {head.dashboard} wants RAY_AUTH_MODE=token .*\n", done.stderr)
