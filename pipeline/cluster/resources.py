"""The resources of a Ray cluster, as plain values: its nodes, those its autoscaler may add, and the device to use."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ROUNDING = 1e-6


def _times(kind: str, has: float, amount: float) -> int:
    """How many times `amount` fits into `has`; an amount below 1 must be of a single GPU."""
    if kind == "GPU" and amount < 1:
        return int(has) * int(1 / amount + ROUNDING)
    return sys.maxsize if math.isinf(has) else int(has / amount + ROUNDING)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Machines of one kind: the resources of each, by Ray's names, and their number."""

    has: Mapping[str, float]
    count: int = 1

    def amount(self, kind: str) -> float:
        """How much of a resource one machine has; memory that nothing is said of is taken to be enough."""
        return self.has.get(kind, math.inf if kind == "memory" else 0)

    def room_for(self, each: Mapping[str, float]) -> int:
        """How many processes fit on all of them together, if one needs the resources `each` on one machine."""
        return self.count * min(_times(kind, self.amount(kind), amount) for kind, amount in each.items())


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The nodes that a cluster has now, and those that its autoscaler may run."""

    now: Sequence[Nodes]
    later: Sequence[Nodes] = ()
    """All nodes that the autoscaler may run at most; empty without an autoscaler."""
    shared_memory: float | None = None
    """Bytes of /dev/shm, where an object store is fast; None for a cluster of several machines."""

    @property
    def most(self) -> Sequence[Nodes]:
        """The nodes available now or by autoscaling."""
        return self.later or self.now


def choose_device(device: str, cluster: Cluster) -> str:
    """`device`, with 'auto' resolved by whether the cluster has GPUs or may get them.

    Raises ValueError for 'cuda' without any.
    """
    gpus = total(cluster.most, "GPU")
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if device.startswith("cuda") and not gpus:
        raise ValueError("--device cuda needs a GPU and the Ray cluster has none; use --device cpu")
    return device


def total(nodes: Sequence[Nodes], kind: str) -> float:
    """The amount of the resource `kind` that the nodes have together."""
    return sum(group.count * group.amount(kind) for group in nodes)
