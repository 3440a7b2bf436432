"""Joining Ray, reading its resources, and the time until a missing cluster is an error."""

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from ray.exceptions import AuthenticationError

from pipeline.cluster.connect import SHORT_FOLDER, START_WAITS, connected, this_cluster
from pipeline.cluster.errors import ClusterError
from pipeline.cluster.resources import Nodes
from pipeline.matching.workers import choose_workers


def test_a_cluster_is_its_living_nodes_and_what_its_autoscaler_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    groups = [
        SimpleNamespace(resources={"CPU": 4, "GPU": 1}, max_count=3),
        SimpleNamespace(resources={"CPU": 8}, max_count=-1),
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr(
        "ray._private.state.state.get_cluster_config", lambda: SimpleNamespace(node_group_configs=groups)
    )

    cluster = this_cluster()

    assert cluster.now == [Nodes(has={"CPU": 2.0})]
    assert cluster.later[0] == Nodes(has={"CPU": 4, "GPU": 1}, count=3)
    assert choose_workers((2, 100_000), "cpu", 1, cluster) == (2, 100_000)
    assert choose_workers((3, 3), "cuda", 1, cluster) == (3, 3)
    with pytest.raises(ValueError, match="has 3 of the 4 GPUs needed"):
        choose_workers((4, 4), "cuda", 1, cluster)


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001", "head", "head:", ":6379"])
def test_what_is_no_address_of_a_head_is_refused(address: str) -> None:
    expected = rf"a Ray to join is HOST:PORT of its head .*; got {address}\. From outside a cluster: nemf submit"

    with pytest.raises(ValueError, match=expected), connected(address):
        pass


def test_where_nothing_listens_there_is_no_waiting() -> None:
    """Ray itself tries for more than three minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

    with pytest.raises(ConnectionError, match=f"no Ray answers at {address}: .*refused"), connected(address):
        pass


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (
            ConnectionError("Failed to connect"),
            ConnectionError,
            "the Ray at auto cannot be joined: Failed to connect; if it runs, it may want RAY_AUTH_MODE=token and its",
        ),
        (AuthenticationError("no token"), ConnectionError, "the Ray at auto cannot be joined: no token.*; if it runs"),
        (
            RuntimeError("Version mismatch:\n  Ray: 2.59.0\n"),
            ValueError,
            "the Ray at auto cannot be joined: Version mismatch: Ray: 2.59.0",
        ),
        (ValueError("Invalid address"), ValueError, "^Invalid address$"),
        (Exception("The node timed out"), ClusterError, "Ray did not start: The node timed out"),
    ],
)
def test_why_there_is_no_ray_is_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, error: type[Exception], message: str
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise raised

    monkeypatch.setattr("ray.init", refuse)

    with pytest.raises(error, match=message) as caught, connected("auto"):
        pass

    assert "\n" not in str(caught.value)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds waited between the tries to start Ray, recorded without waiting; other threads still sleep."""
    waited: list[float] = []
    monkeypatch.setattr("pipeline.cluster.connect.time", SimpleNamespace(sleep=waited.append))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return waited


class _Init:
    """A ray.init that raises some errors, one at each call, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.options: list[dict[str, object]] = []

    def __call__(self, address: str, **options: object) -> None:
        self.options.append({"address": address, **options})
        if self.errors:
            raise self.errors.pop(0)


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out\nduring startup."),
        RuntimeError("Timed out waiting for the port"),
        TimeoutError("Timed out after 30 seconds"),
        ConnectionError("no answer"),
    ],
)
def test_an_embedded_ray_that_did_not_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    init = _Init(error, error)
    monkeypatch.setattr("ray.init", init)

    with connected(None):
        assert [options["address"] for options in init.options] == ["local"] * 3

    assert waits == list(START_WAITS[:2])
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"Ray did not start ({' '.join(str(error).split())}); trying again in {wait} s" for wait in waits
    ]
    assert printed.out == ""


def test_the_tries_to_start_ray_come_to_an_end(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    init = _Init(*[Exception("too busy")] * 9)
    monkeypatch.setattr("ray.init", init)

    with pytest.raises(ClusterError, match=r"^Ray did not start in 4 tries: too busy$"), connected("local"):
        pass

    assert waits == list(START_WAITS)


@pytest.mark.parametrize(
    "error", [ValueError("no such option"), OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")]
)
def test_what_a_second_try_would_not_mend_is_raised_at_once(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], error: Exception
) -> None:
    monkeypatch.setattr("ray.init", _Init(error))

    with pytest.raises(type(error), match=str(error).rpartition("]")[2]), connected(None):
        pass

    assert waits == []


def test_a_request_to_end_is_answered_as_before_ray_was_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ray.init", lambda *_a, **_o: signal.signal(signal.SIGTERM, signal.SIG_IGN))

    with connected("local"):
        assert signal.getsignal(signal.SIGTERM) == before


def test_what_a_failed_start_left_is_ended(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    command = [sys.executable, "-c", "input()"]
    earlier = subprocess.Popen(command, stdin=subprocess.PIPE)
    started: list[subprocess.Popen[bytes]] = []

    def init(*_arguments: object, **_options: object) -> None:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        if len(started) == 1:
            raise Exception("too busy")

    monkeypatch.setattr("ray.init", init)
    try:
        with connected(None):
            assert not psutil.pid_exists(started[0].pid)
            assert started[1].poll() is None
            assert earlier.poll() is None
    finally:
        for process in (earlier, *started):
            process.kill()
            with process:
                pass


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_ray_has_a_short_folder_where_the_temporary_one_is_too_long_for_its_sockets(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    init = _Init()
    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    limit = 107 - len(f"/ray/session_2026-11-29_01-31-28_123456_{2**22}/sockets/plasma_store")
    for folder in ("/" + "d" * (limit - 1), "/" + "d" * limit):
        monkeypatch.setenv(variable, folder)
        with connected(None):
            pass

    assert [options["_temp_dir"] for options in init.options] == [None, SHORT_FOLDER]
    assert capsys.readouterr().err == (
        f"{variable} is too long for the sockets of Ray ({os.environ[variable]}); its files are in {SHORT_FOLDER}\n"
    )
    assert waits == []
