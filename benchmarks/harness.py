"""Times functions, samples their memory, describes the hardware, and writes results as Markdown and JSON."""

import ctypes
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

_SAMPLE_SECONDS = 0.01


def describe(device: torch.device | None = None) -> dict[str, str]:
    """Hardware and versions of libraries, by name."""
    setup = {
        "CPU": f"{_cpu_name()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB",
        "threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device is not None and device.type == "cuda":
        setup["GPU"] = torch.cuda.get_device_name(device)
    return setup


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


class CompetingLoad:
    """Processor time of other processes: small steps take many times as long when two processes share the cores."""

    def __init__(self) -> None:
        self._start, self._others_at_start = time.perf_counter(), _seconds_of_others()

    def share(self) -> float:
        """Share of all processors, 0..1, that other processes, this one's children included, took since
        construction."""
        elapsed = (time.perf_counter() - self._start) * (psutil.cpu_count() or 1)
        return (_seconds_of_others() - self._others_at_start) / elapsed


def _seconds_of_others() -> float:
    of_all, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(getattr(of_all, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
    return float(busy - own.user - own.system)


def write(
    out: str | None, name: str, setup: Mapping[str, str], lines: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Print Markdown under one line of the setup, and write both, and the rows as JSON, to folder `out` if any."""
    text = "\n".join(["; ".join(f"{key}: {value}" for key, value in setup.items()), "", *lines])
    print(text)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / f"{name}.md").write_text(text + "\n")
        (Path(out) / f"{name}.json").write_text(json.dumps({"about": setup, "rows": rows}, indent=1) + "\n")


def as_text(number: float) -> str:
    """A number with three significant digits, or with all digits before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """The highest rate of matrix products on this machine, in FLOP per second."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        matrix = torch.randn(size, size, device=device).to(dtype)
        measured = measure({"square": partial(torch.matmul, matrix, matrix)}, device, repeats=20)["square"]
        best = max(best, 2 * size**3 / min(measured.seconds))
    return best


@contextmanager
def nothing_kept() -> Iterator[None]:
    """Within it matchers keep no features between calls: whatever was matched before, a call encodes its images."""
    with mock.patch("nemf.matchers.feature_cache.KEPT_BYTES", 0):
        yield


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of several runs of one function."""

    answer: Any
    """Result of the first run."""
    seconds: tuple[float, ...]
    """Duration of each run but the first, or of the only run."""
    peak_mb: float
    """Peak memory of a run: resident memory of this process, or memory allocated on the GPU."""
    rise_mb: float
    """Peak memory minus the memory before the run."""

    @property
    def median(self) -> float:
        """Median duration in seconds."""
        return statistics.median(self.seconds)


def measure(functions: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int) -> dict[str, Measured]:
    """Run each function `repeats` times, in turns, after one run each that is not timed; only once for 0 repeats."""
    runs: dict[str, list[_Run]] = {name: [] for name in functions}
    for _ in range(1 + repeats):
        for name, function in functions.items():
            if not runs[name]:
                _hand_back_memory()
            runs[name].append(_run(function, device))
    return {name: _summary(of_one, device) for name, of_one in runs.items()}


@dataclass(frozen=True, kw_only=True)
class _Run:
    answer: Any
    seconds: float
    before: int
    peak: int


def _summary(runs: list[_Run], device: torch.device) -> Measured:
    # on a GPU the first run may compile and try kernels; on a CPU later runs take what earlier ones left
    of_memory = runs[-1 if device.type == "cuda" else 0]
    return Measured(
        answer=runs[0].answer,
        seconds=tuple(run.seconds for run in runs[min(len(runs) - 1, 1) :]),
        peak_mb=of_memory.peak / 1e6,
        rise_mb=(of_memory.peak - of_memory.before) / 1e6,
    )


def _run(function: Callable[[], Any], device: torch.device) -> _Run:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else _resident()
    with _PeakResident() as resident:
        start = time.perf_counter()
        answer = function()
        if cuda:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if cuda else resident.peak
    return _Run(answer=answer, seconds=seconds, before=before, peak=peak)


def _hand_back_memory() -> None:
    """Return free memory to the system, if the C library can, so that its reuse is measured."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


class _PeakResident:
    """Samples this process's resident memory from a thread while the block runs."""

    def __enter__(self) -> "_PeakResident":
        self.peak = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, _resident())

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, _resident())
