"""Where Ray is, what it has, and how long a job waits for one that is not there."""

import socket
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from pipeline.cluster.connect import connected, this_cluster
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

    with pytest.raises(error, match=message) as raised, connected("auto"):
        pass

    assert "\n" not in str(raised.value)
