"""What a Ray cluster has, as plain values: its nodes, what its autoscaler may add, and the device that follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ROUNDING = 1e-6


def _times(kind: str, has: float, amount: float) -> int:
    """How often `amount` is to be had; a share of a GPU is one of a single GPU."""
    if kind == "GPU" and amount < 1:
        return int(has) * int(1 / amount + ROUNDING)
    return int(has / amount + ROUNDING)


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
    gpus = total(cluster.most, "GPU")
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if device.startswith("cuda") and not gpus:
        raise ValueError("--device cuda needs a GPU and the Ray cluster has none; use --device cpu")
    return device


def total(nodes: Sequence[Nodes], kind: str) -> float:
    """How much of `kind` the nodes have together."""
    return sum(group.count * group.has.get(kind, 0) for group in nodes)
