import json
import socket
from collections.abc import AsyncIterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.job_submission import JobStatus

from pipeline.cluster import ray_jobs
from pipeline.cluster.errors import ClusterError


class _Cluster:
    """A JobSubmissionClient of one job; every connection starts at the beginning of its log."""

    def __init__(self, *connections: list[str | Exception], ends_as: JobStatus = JobStatus.SUCCEEDED) -> None:
        self._connections = list(connections)
        self._ends_as = ends_as
        self.stopped: list[str] = []

    async def tail_job_logs(self, _submission: str) -> AsyncIterator[str]:
        for text in self._connections.pop(0):
            if isinstance(text, BaseException):
                raise text
            yield text

    def get_job_info(self, _submission: str) -> Any:
        status = JobStatus.RUNNING if self._connections else self._ends_as
        return SimpleNamespace(status=status, driver_exit_code=None, message="")

    def stop_job(self, submission: str) -> bool:
        self.stopped.append(submission)
        return True


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


@pytest.mark.usefixtures("_no_waiting")
def test_a_lost_connection_repeats_nothing_and_misses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cluster: Any = _Cluster(
        ["one\ntw", RuntimeError("closed unexpectedly")],
        [ConnectionError("no route")],
        ["one\n", "two\nthree\n", RuntimeError("closed unexpectedly")],
        ["one\ntwo\nthree\nfour\n"],
    )

    assert ray_jobs.follow(cluster, "job").status == JobStatus.SUCCEEDED

    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"
    assert cluster.stopped == []


@pytest.mark.usefixtures("_no_waiting")
def test_a_job_that_is_never_seen_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    cluster: Any = _Cluster(*[[ConnectionError("no route")]] * 9)

    with pytest.raises(ClusterError, match="lost sight of job, which may go on: no route"):
        ray_jobs.follow(cluster, "job")


@pytest.mark.usefixtures("_no_waiting")
def test_ctrl_c_stops_the_job_and_its_last_words_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    cluster: Any = _Cluster(["one\n", KeyboardInterrupt()], ["one\nlast words\n"], ends_as=JobStatus.STOPPED)

    details = ray_jobs.follow(cluster, "job")

    assert cluster.stopped == ["job"]
    assert capsys.readouterr().out == "one\nlast words\n"
    assert details.status == JobStatus.STOPPED


@pytest.mark.usefixtures("_no_waiting")
def test_a_second_ctrl_c_leaves_the_job_to_its_end() -> None:
    cluster: Any = _Cluster([KeyboardInterrupt()], [KeyboardInterrupt()], ["never read"])

    with pytest.raises(KeyboardInterrupt, match="job was asked to stop and has not ended yet"):
        ray_jobs.follow(cluster, "job")


def test_a_head_that_answers_late_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timeouts: list[float] = []

    def answer(url: str, timeout: float) -> Any:
        assert url == "http://head:8265/api/version"
        timeouts.append(timeout)
        if len(timeouts) < 3:
            raise TimeoutError("timed out")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    client = SimpleNamespace(_do_request=lambda *_: SimpleNamespace(json=lambda: {"ray_version": ray.__version__}))
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda _address: client)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")

    assert ray_jobs.connect("http://head:8265/") is client

    assert timeouts == [10, 30, 60]
    assert capsys.readouterr().err.splitlines() == [
        f"no answer from http://head:8265/api/version in {seconds} s; trying again" for seconds in (10, 30)
    ]


class _Versions(BaseHTTPRequestHandler):
    """A head that answers with its version and knows nothing else."""

    ray_version: str

    def do_GET(self) -> None:
        body = json.dumps({"version": "4", "ray_version": self.ray_version, "ray_commit": "", "session_name": "s"})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("theirs", "ours", "accepted"),
    [
        ("2.53.0", "2.53.1", True),
        ("2.53.0", "2.54.0", False),
        ("2.6.0", "2.60.0", False),
        ("3.53.0", "2.53.0", False),
    ],
)
def test_a_cluster_of_another_minor_version_of_ray_is_told_before_anything_is_submitted(
    monkeypatch: pytest.MonkeyPatch, theirs: str, ours: str, accepted: bool
) -> None:
    monkeypatch.setattr("ray.__version__", ours)
    monkeypatch.setattr(_Versions, "ray_version", theirs, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    expected = f"^the cluster at http://127.0.0.1:[0-9]+ runs Ray {theirs}, and this is Ray {ours}: .*ray.*=={theirs}'$"
    server = HTTPServer(("127.0.0.1", 0), _Versions)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with nullcontext() if accepted else pytest.raises(ValueError, match=expected):
            ray_jobs.connect(f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("accepts", [True, False])
def test_a_head_that_never_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], accepts: bool
) -> None:
    monkeypatch.setattr(ray_jobs, "ANSWER_SECONDS", (0.01, 0.01))
    server = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    if not accepts:
        server.close()

    with server if accepts else nullcontext(), pytest.raises(ConnectionError, match=f"^no Ray answers at {address}: "):
        ray_jobs.connect(address)

    assert capsys.readouterr().err.count("trying again") == int(accepts)
