"""Whether a cluster has what a job needs: better an error now than a job that waits for ever."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.matching.decode import CHUNK_BYTES
from pipeline.matching.stream import CHUNKS_AHEAD, IO_CPUS, MATCH_CPUS

SHARED_MEMORY = Path("/dev/shm")
_ROUNDING = 1e-6


def _times(kind: str, has: float, amount: float) -> int:
    """How often `amount` is to be had; a share of a GPU is one of a single GPU."""
    if kind == "GPU" and amount < 1:
        return int(has) * int(1 / amount + _ROUNDING)
    return int(has / amount + _ROUNDING)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Machines of one kind: what each has, by Ray's names, and how many there are."""

    has: Mapping[str, float]
    count: int = 1

    def places(self, each: Mapping[str, float]) -> int:
        """How many processes find a place on all of them together, if each needs as much on one machine."""
        return self.count * min(_times(kind, self.has.get(kind, 0), amount) for kind, amount in each.items())


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a cluster has now, and what its autoscaler may make of it."""

    now: Sequence[Nodes]
    later: Sequence[Nodes] = ()
    """All it may have at most; none if it has no autoscaler."""
    shared_memory: float | None = None
    """Bytes of /dev/shm, where an object store is fast; None for a cluster of several machines."""

    @property
    def most(self) -> Sequence[Nodes]:
        """What can be counted on, sooner or later."""
        return self.later or self.now


def choose_device(device: str, cluster: Cluster) -> str:
    """'auto' made definite by what the cluster has or may get. Raises ValueError for GPUs that are not there."""
    gpus = _total(cluster.most, "GPU")
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if device.startswith("cuda") and not gpus:
        raise ValueError("--device cuda needs a GPU and the Ray cluster has none; use --device cpu")
    return device


def choose_workers(
    asked: tuple[int, int] | None, device: str, gpus_per_worker: float, cluster: Cluster
) -> tuple[int, int]:
    """How many processes match, at least and at most: as asked, else one per GPU share or core that is there now.

    Says on stderr what will make them slow. Raises ValueError that names everything the cluster lacks for the least,
    and for the decoding beside them.
    """
    on_gpu = device.startswith("cuda")
    each = {"CPU": MATCH_CPUS} | ({"GPU": gpus_per_worker} if on_gpu else {})
    least, most = asked or (_one_for_each(cluster, each),) * 2
    if lacks := _lacks(cluster.most, least, each):
        kind = "Ray cluster, with all that its autoscaler may add," if cluster.later else "Ray cluster"
        raise ValueError(
            f"{least} worker{'s' if least > 1 else ''} and the decoding beside them would wait for ever: the {kind} "
            f"has {'; '.join(lacks)}. Ask for fewer --workers{' or --gpus-per-worker' if on_gpu else ''}, or a larger "
            "cluster"
        )
    for note in _notes(cluster, least, each):
        print(f"note: {note}", file=sys.stderr)
    return least, most


def _one_for_each(cluster: Cluster, each: Mapping[str, float]) -> int:
    if "GPU" in each:
        return max(1, sum(nodes.places({"GPU": each["GPU"]}) for nodes in cluster.now))
    return max(1, int(_total(cluster.now, "CPU")))


def _lacks(nodes: Sequence[Nodes], workers: int, each: Mapping[str, float]) -> list[str]:
    """What is missing, each with how much there is; none if `workers` find their places."""
    needed = {kind: workers * amount for kind, amount in each.items()}
    needed["CPU"] += IO_CPUS
    lacks = [
        f"{_total(nodes, kind):g} of the {amount:g} {kind}s needed"
        for kind, amount in needed.items()
        if amount > _total(nodes, kind) + _ROUNDING
    ]
    places = sum(group.places(each) for group in nodes)
    if places < workers and not lacks:
        one = " and ".join(f"{amount:g} {kind}s" for kind, amount in each.items())
        lacks = [f"places for {places} of them: each needs {one} on one machine"]
    return lacks


def _notes(cluster: Cluster, workers: int, each: Mapping[str, float]) -> Iterator[str]:
    if waits_for := _lacks(cluster.now, workers, each):
        yield f"the Ray cluster has {'; '.join(waits_for)} and waits for its autoscaler"
        return
    store, wanted = _total(cluster.now, "object_store_memory"), CHUNKS_AHEAD * CHUNK_BYTES * workers
    if min(store, cluster.shared_memory or store) < wanted:
        shared = "" if cluster.shared_memory is None else f" ({SHARED_MEMORY}: {_mib(cluster.shared_memory)})"
        yield (
            f"Ray's object store has {_mib(store)}{shared}, and {_mib(wanted)} feed {workers} workers well; with less, "
            "images wait on disk: see ray start --object-store-memory, docker run --shm-size"
        )


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"


def _total(nodes: Sequence[Nodes], kind: str) -> float:
    return sum(group.count * group.has.get(kind, 0) for group in nodes)
