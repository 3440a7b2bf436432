"""The cores and the memory of this machine that this process may use, in a container too. Imports no Ray."""

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
"""Where a container finds its own limits (control groups, version 2)."""


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """The cores that this process may use, at least 1: those it is bound to, and no more than its container's share."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def free_memory(cgroup: Path = _CGROUP) -> int:
    """The bytes of memory that may still be taken: of the machine's, and of its container's."""
    free = psutil.virtual_memory().available
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        free = min(free, int(limit) - int(used))
    return max(0, free)


def _read(file: Path) -> str:
    """What a control group says of itself; empty where there is none, 'max' where there is no limit."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
