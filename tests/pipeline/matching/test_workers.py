"""The checks of a cluster's resources before a job starts."""

import pytest

from pipeline.cluster.resources import Cluster, Nodes, choose_device
from pipeline.matching.workers import choose_workers

GIB = 2**30


def _nodes(count: int = 1, **has: float) -> Nodes:
    names = {"cpus": "CPU", "gpus": "GPU", "store": "object_store_memory", "memory": "memory"}
    return Nodes(has={names[name]: amount for name, amount in {"store": 64 * GIB, **has}.items()}, count=count)


EMPTY = Cluster(now=[])
LAPTOP = Cluster(now=[_nodes(cpus=4)])
GPUS = Cluster(now=[_nodes(cpus=16, gpus=2), _nodes(cpus=16, gpus=2)])
GROWING = Cluster(now=[_nodes(cpus=0)], later=[_nodes(cpus=0), _nodes(3, cpus=4), _nodes(2, cpus=4, gpus=1)])


@pytest.mark.parametrize(
    ("cluster", "requested", "share", "chosen"),
    [
        (LAPTOP, None, 1, (4, 4)),
        (LAPTOP, (3, 3), 1, (3, 3)),
        (LAPTOP, (2, 8), 1, (2, 8)),
        (Cluster(now=[_nodes(cpus=1)]), None, 1, (1, 1)),
        (Cluster(now=[_nodes(cpus=8, memory=5 * GIB)]), None, 1, (3, 3)),
        (GPUS, None, 1, (4, 4)),
        (GPUS, None, 0.5, (8, 8)),
        (GPUS, None, 0.3, (12, 12)),
        (GPUS, None, 2, (2, 2)),
        (GPUS, (12, 12), 0.3, (12, 12)),
        (GPUS, (2, 2), 2, (2, 2)),
        (GROWING, (2, 4), 0.5, (2, 4)),
        (GROWING, (4, 4), 0.5, (4, 4)),
        (GROWING, None, 1, (1, 1)),
    ],
)
def test_as_many_as_asked_or_one_for_each_core_or_share(
    cluster: Cluster, requested: tuple[int, int] | None, share: float, chosen: tuple[int, int]
) -> None:
    device = choose_device("auto", cluster)

    assert choose_workers(requested, device, share, cluster) == chosen


@pytest.mark.parametrize(
    ("cluster", "device", "requested", "share", "lacks"),
    [
        (LAPTOP, "cpu", 6, 1, "6 workers .* has 4 of the 4.75 CPUs needed. Ask for fewer --workers, or"),
        (Cluster(now=[_nodes(cpus=0.5)]), "cpu", 1, 1, "1 worker and .* has 0.5 of the 1 CPUs needed"),
        (EMPTY, "cpu", 1, 1, "has 0 of the 1 CPUs needed"),
        (Cluster(now=[_nodes(cpus=8, memory=3 * GIB)]), "cpu", 2, 1, "has 3 of the 3.38 GiB of memory needed"),
        (Cluster(now=[_nodes(4, cpus=1, memory=GIB)]), "cpu", 2, 1, "0 of them: .* 0.75 CPUs and 1.5 GiB of memory on"),
        (GPUS, "cuda", 5, 1, "has 4 of the 5 GPUs needed. Ask for fewer --workers or --gpus-per-worker, or"),
        (
            Cluster(now=[_nodes(cpus=1, gpus=1)]),
            "cuda",
            2,
            1,
            "has 1 of the 1.75 CPUs needed; 1 of the 2 GPUs needed",
        ),
        (GPUS, "cuda", 2, 4, "has 4 of the 8 GPUs needed"),
        (
            GPUS,
            "cuda",
            1,
            4,
            "has places for 0 of them: each needs 0.75 CPUs and .* and 4 GPUs on one machine",
        ),
        (
            GPUS,
            "cuda",
            9,
            0.4,
            "has places for 8 of them: each needs 0.75 CPUs and .* and 0.4 GPUs on one machine",
        ),
        (
            GROWING,
            "cuda",
            3,
            1,
            "the Ray cluster, with all that its autoscaler may add, has 2 of the 3 GPUs needed",
        ),
        (GROWING, "cpu", 40, 1, "has 20 of the 30.25 CPUs needed"),
    ],
)
def test_everything_that_is_lacking_is_said_at_once(
    cluster: Cluster, device: str, requested: int, share: float, lacks: str
) -> None:
    with pytest.raises(ValueError, match=lacks):
        choose_workers((requested, requested), device, share, cluster)


@pytest.mark.parametrize(
    ("cluster", "requested", "note"),
    [
        (LAPTOP, (4, 4), ""),
        (GROWING, (2, 4), "note: the Ray cluster has 0 of the 1.75 CPUs needed; 0 of the 2 GPUs needed and waits for"),
        (
            Cluster(now=[_nodes(cpus=4, store=600 * 2**20)]),
            (4, 4),
            "note: Ray's object store has 600 MiB, and 1,024 MiB feed 4 workers well",
        ),
        (
            Cluster(now=[_nodes(cpus=4, store=4 * GIB)], shared_memory=64 * 2**20),
            (4, 4),
            "note: Ray's object store has 4,096 MiB (/dev/shm: 64 MiB), and 1,024 MiB feed 4 workers well",
        ),
        (Cluster(now=[_nodes(cpus=4, store=4 * GIB)], shared_memory=8 * GIB), (4, 4), ""),
    ],
)
def test_what_will_be_slow_is_said_and_goes_on(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, requested: tuple[int, int], note: str
) -> None:
    assert choose_workers(requested, choose_device("auto", cluster), 1, cluster) == requested

    printed = capsys.readouterr().err
    assert printed.startswith(note)
    assert printed.count("\n") == bool(note)


def test_an_autoscaler_without_limit_has_room_for_any_number() -> None:
    cluster = Cluster(now=[_nodes(cpus=2)], later=[_nodes(2**31 - 1, cpus=4)])

    assert choose_workers((1000, 1000), "cpu", 1, cluster) == (1000, 1000)


@pytest.mark.parametrize(
    ("device", "cluster", "chosen"),
    [("auto", LAPTOP, "cpu"), ("auto", GPUS, "cuda"), ("auto", GROWING, "cuda"), ("cpu", GPUS, "cpu")],
)
def test_gpus_are_used_where_there_are_or_will_be_any(device: str, cluster: Cluster, chosen: str) -> None:
    assert choose_device(device, cluster) == chosen


def test_a_gpu_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ValueError, match="--device cuda needs a GPU and the Ray cluster has none"):
        choose_device("cuda", LAPTOP)
