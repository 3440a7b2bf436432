"""Time and peak memory of a command run as a process of its own."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


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
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return ResourceUse(
        seconds=time.perf_counter() - start, driver_peak_mb=driver_peak / 1e6, workers_peak_mb=workers_peak / 1e6
    )


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
