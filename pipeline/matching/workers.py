"""The number of matching processes, and a check that the cluster has room for them, since Ray would wait forever."""

import sys
from collections.abc import Iterator, Mapping, Sequence

from pipeline.cluster.resources import ROUNDING, SHARED_MEMORY, Cluster, Nodes, total
from pipeline.matching.decode import CHUNK_BYTES
from pipeline.matching.options import MATCH_MEMORY
from pipeline.matching.stream import CHUNKS_AHEAD, IO_CPUS, IO_MEMORY, MATCH_CPUS


def choose_workers(
    requested: tuple[int, int] | None, device: str, gpus_per_worker: float, cluster: Cluster
) -> tuple[int, int]:
    """The least and largest number of matching processes: as requested, else one per GPU share, or one per core as far
    as the memory goes, available now.

    Prints to stderr what will make them slow. Raises ValueError that names everything the cluster lacks for the least
    number, and for the decoding tasks.
    """
    on_gpu = device.startswith("cuda")
    each = {"CPU": MATCH_CPUS, "memory": MATCH_MEMORY} | ({"GPU": gpus_per_worker} if on_gpu else {})
    least, most = requested or (_one_for_each(cluster, each),) * 2
    if lacks := _lacks(cluster.most, least, each):
        kind = "Ray cluster, with all that its autoscaler may add," if cluster.later else "Ray cluster"
        raise ValueError(
            f"{least} worker{'s' if least > 1 else ''} and their decoding tasks would wait forever: the {kind} "
            f"has {'; '.join(lacks)}. Ask for fewer --workers{' or --gpus-per-worker' if on_gpu else ''}, or a larger "
            "cluster"
        )
    for note in _notes(cluster, least, each):
        print(f"note: {note}", file=sys.stderr)
    return least, most


def _one_for_each(cluster: Cluster, each: Mapping[str, float]) -> int:
    if "GPU" in each:
        return max(1, sum(nodes.room_for({"GPU": each["GPU"]}) for nodes in cluster.now))
    memory = total(cluster.now, "memory") - IO_MEMORY
    return max(1, int(min(total(cluster.now, "CPU"), memory / each["memory"])))


def _lacks(nodes: Sequence[Nodes], workers: int, each: Mapping[str, float]) -> list[str]:
    """The missing resources as texts, each with the amount available; empty if the nodes have room for the
    processes."""
    needed = {kind: workers * amount for kind, amount in each.items()}
    needed["CPU"] += IO_CPUS
    needed["memory"] += IO_MEMORY
    lacks = [
        f"{_amount(kind, total(nodes, kind))} of the {_amount(kind, amount)}{_unit(kind)} needed"
        for kind, amount in needed.items()
        if amount > total(nodes, kind) + ROUNDING
    ]
    room = sum(group.room_for(each) for group in nodes)
    if room < workers and not lacks:
        one = " and ".join(f"{_amount(kind, amount)}{_unit(kind)}" for kind, amount in each.items())
        lacks = [f"places for {room} of them: each needs {one} on one machine"]
    return lacks


def _amount(kind: str, amount: float) -> str:
    return f"{amount / 2**30:.3g}" if kind == "memory" else f"{amount:g}"


def _unit(kind: str) -> str:
    return " GiB of memory" if kind == "memory" else f" {kind}s"


def _notes(cluster: Cluster, workers: int, each: Mapping[str, float]) -> Iterator[str]:
    if waits_for := _lacks(cluster.now, workers, each):
        yield f"the Ray cluster has {'; '.join(waits_for)} and waits for its autoscaler"
        return
    store, needed = total(cluster.now, "object_store_memory"), CHUNKS_AHEAD * CHUNK_BYTES * workers
    if min(store, cluster.shared_memory or store) < needed:
        shared = "" if cluster.shared_memory is None else f" ({SHARED_MEMORY}: {_mib(cluster.shared_memory)})"
        yield (
            f"Ray's object store has {_mib(store)}{shared}, and {_mib(needed)} feed {workers} workers well; with less, "
            "images wait on disk: see ray start --object-store-memory, docker run --shm-size"
        )


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
