"""Time, processor time and peak memory of a command run as a process of its own."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class ResourceUse:
    """Time and peak memory of one command."""

    seconds: float
    """Seconds from the process's start to its end."""
    driver_peak_mb: float
    """Peak resident memory of the process itself, in MB."""
    workers_peak_mb: float
    """Peak proportional memory of all processes it started, Ray's included, in MB."""


def run_and_measure(command: Sequence[str]) -> ResourceUse:
    """Run a command to its end and discard its output. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    driver_peak, workers_peak = 0, 0
    while process.poll() is None:
        driver_peak = max(driver_peak, _resident(process))
        workers_peak = max(workers_peak, sum(_proportional(child) for child in process.children(recursive=True)))
        time.sleep(_SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return ResourceUse(
        seconds=time.perf_counter() - start, driver_peak_mb=driver_peak / 1e6, workers_peak_mb=workers_peak / 1e6
    )


@dataclass(frozen=True, kw_only=True)
class FamilyUse:
    """What a command took, all its processes together."""

    seconds: float
    """Seconds from the process's start to its end."""
    cpu_seconds: float
    peak_mb: float
    """Shared pages are counted once."""


def watch(
    command: Sequence[str],
    kill_when: Callable[[float], bool] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> FamilyUse | None:
    """Run a command to its end, or kill it and all its processes; None if it was killed, and RuntimeError if it failed.

    kill_when: of the CPU seconds so far, asked about every fifth of a second.
    environment, folder: the command's variables and working folder, if not those of this process.
    CPU seconds are those of samples: of a process that ended, its last fifth of a second may be missing.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = psutil.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
        cpu_seconds: dict[int, float] = {}
        peak = 0
        while process.poll() is None:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(map(_proportional, family)))
            cpu_seconds |= {member.pid: _cpu_seconds(member, cpu_seconds.get(member.pid, 0.0)) for member in family}
            if kill_when and kill_when(sum(cpu_seconds.values())):
                for member in family:
                    _kill_one(member)
                psutil.wait_procs(family, timeout=60)
                return None
            time.sleep(_SAMPLE_SECONDS)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}\n{output.read().decode()[-2000:]}")
    return FamilyUse(seconds=time.perf_counter() - start, cpu_seconds=sum(cpu_seconds.values()), peak_mb=peak / 1e6)


def _kill_one(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return  # it has ended already


def _cpu_seconds(process: psutil.Process, known: float) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return known
    return float(times.user + times.system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    """Memory with shared pages counted once over the processes that share them."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
