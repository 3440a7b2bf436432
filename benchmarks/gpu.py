"""One GPU in eight minutes: right answers, the kernel's tuning, times of pairs, a whole job and how busy the GPU is.

    python -m benchmarks.gpu --out benchmarks/results

Every part says what it found, or why it was left out: where there is no GPU, where it failed, where time was up. On a
machine without a GPU the parts that need none run on the CPU, which only shows that the script works.
"""

import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.inputs import image_pair
from benchmarks.synthetic_manifest import write_manifest
from jobs.command import Names, run_command
from nemf import Matcher, load_matcher
from nemf.load import find_device
from nemf.model.field import Field
from nemf.model.quadrilinear import corners

LAUNCHES: tuple[dict[str, int], ...] = ({}, {"stages": 3}, {"chunk": 8192}, {"tile": 64, "warps": 4}, {"warps": 4})
"""Changes of nemf.model.field_triton.Launch to try."""
NO_GPU = "left out: needs a GPU"
NO_TIME = "left out: time was up"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run, and for how long."""

    matchers: Names = ("nemf-small", "nemf-small?precision=bfloat16")
    """Matchers to check and to time; those that need a GPU are left out without one."""
    size: str = "500x375"
    """Width x height of the images of a pair."""
    points: int = 10
    """Keypoints of a pair."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Pairs given to the matcher together."""
    candidates: int = 2**20
    """Points that the kernel scores."""
    job_pairs: int = 3000
    """Pairs of the whole job; 0 for none."""
    repeats: int = 3
    """Runs whose median counts."""
    minutes: float = 8.0
    """Nothing is begun after so long."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    out: str | None = None
    """Folder for gpu.md and gpu.json; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, or why there is none."""

    part: str
    work: str
    values: dict[str, float]
    """Numbers by what they are, with their unit."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Part:
    part: str
    work: str
    measure: Callable[[], dict[str, float]]
    needs_gpu: bool = False


@harness.nothing_kept()
def run(config: Config) -> list[Row]:
    """Measure and print. Raises ValueError for a device that is not there."""
    device, start = find_device(config.device), time.perf_counter()
    rows = []
    for part in _parts(config, device):
        if part.needs_gpu and device.type != "cuda":
            rows.append(Row(part=part.part, work=part.work, values={}, note=NO_GPU))
        elif time.perf_counter() - start > 60 * config.minutes:
            rows.append(Row(part=part.part, work=part.work, values={}, note=NO_TIME))
        else:
            rows.append(_measured(part))
        print(_line(rows[-1]), file=sys.stderr, flush=True)
    setup = {**harness.describe(device), "device": str(device), "images": config.size, "points": str(config.points)}
    lines = ["| part | work | measured |", "|---|---|---|", *map(_line, rows)]
    harness.write(config.out, "gpu", setup, lines, [asdict(row) for row in rows])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _measured(part: _Part) -> Row:
    try:
        return Row(part=part.part, work=part.work, values=part.measure())
    except Exception as error:  # a part that fails must not take the others' time on the GPU with it
        note = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Row(part=part.part, work=part.work, values={}, note=note)


def _line(row: Row) -> str:
    cells = [f"{what} {harness.as_text(value)}" for what, value in row.values.items()]
    return f"| {row.part} | {row.work} | {'; '.join(cells) or row.note} |"


def _parts(config: Config, device: torch.device) -> Iterator[_Part]:
    """All parts, what matters most first."""
    width, height = map(int, config.size.split("x"))
    hw, most = (height, width), max(config.batches)
    matchers = [_Loaded(name) for name in config.matchers]
    for matcher in matchers:
        correct = partial(_correctness, matcher, device, hw, config.points, most)
        yield _Part(part="answers", work=f"{matcher.name}, beside the CPU's", measure=correct, needs_gpu=True)
        alone = partial(_independence, matcher, device, hw, config.points, most)
        yield _Part(
            part="answers", work=f"{matcher.name}, in a batch and alone", measure=alone, needs_gpu=matcher.needs_gpu
        )
    for matcher in matchers if config.job_pairs else ():
        job = partial(_job, matcher.name, device, config.job_pairs)
        yield _Part(part="job", work=f"{matcher.name}, {config.job_pairs:,} pairs", measure=job, needs_gpu=True)
    for points, batch, matcher in itertools.product((config.points, None), config.batches, matchers):
        work = f"{matcher.name}, {'dense' if points is None else f'{points} keypoints'}, batch {batch}"
        times = partial(_times, matcher, device, hw, points, batch, config.repeats)
        yield _Part(part="times", work=work, measure=times, needs_gpu=matcher.needs_gpu)
    for launch in LAUNCHES:
        tune = partial(_kernel, launch, device, config.candidates, config.repeats)
        work = ", ".join(f"{name}={value}" for name, value in launch.items()) or "as it ships"
        yield _Part(part="kernel", work=work, measure=tune, needs_gpu=True)


class _Loaded:
    """A matcher on a device, loaded on first use."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loaded: dict[str, Matcher] = {}

    @property
    def needs_gpu(self) -> bool:
        """Whether there is no such matcher on a CPU."""
        return "precision=bfloat16" in self.name

    def on(self, device: torch.device) -> Matcher:
        """The matcher on that device."""
        return self._loaded.setdefault(str(device), load_matcher(self.name, device=str(device)))


def _correctness(load: _Loaded, device: torch.device, hw: tuple[int, int], points: int, n: int) -> dict[str, float]:
    """Distances of the GPU's answers from those of the CPU in full precision."""
    pairs = [image_pair(hw, number, points=points) for number in range(n)]
    exact = _Loaded(load.name.partition("?precision")[0]).on(torch.device("cpu"))
    expected = np.concatenate([match.reference_xy_px for match in exact.match_batch(pairs)])
    answers = np.concatenate([match.reference_xy_px for match in load.on(device).match_batch(pairs)])
    distance_px = np.linalg.norm(answers - expected, axis=1)
    return {
        "points": float(len(distance_px)),
        "more than .5 px apart, %": 100 * float((distance_px > 0.5).mean()),
        "median distance, px": float(np.median(distance_px)),
        "greatest, px": float(distance_px.max()),
    }


def _independence(load: _Loaded, device: torch.device, hw: tuple[int, int], points: int, n: int) -> dict[str, float]:
    """How many pairs have other answers in a batch than alone: 0 is right."""
    pairs = [image_pair(hw, number, points=points) for number in range(n)]
    matcher = load.on(device)
    alone = [match for pair in pairs for match in matcher.match_batch([pair])]
    together = list(matcher.match_batch(pairs))
    equal = [
        np.array_equal(a.reference_xy_px, b.reference_xy_px) and np.array_equal(a.point_confidence, b.point_confidence)
        for a, b in zip(alone, together, strict=True)
    ]
    return {"pairs": float(n), "with other bits": float(n - sum(equal))}


def _kernel(changes: dict[str, int], device: torch.device, n: int, repeats: int) -> dict[str, float]:
    """Time of scoring candidates at the published sizes, and how far the logits are from the field's own."""
    from nemf.model.field_triton import KernelWeights, Launch, score  # imports triton

    torch.manual_seed(0)
    cells, channels, n_queries = (16, 16), 64, 256
    field = Field(correlation_channels=channels, cost_channels=channels, hidden=256, n_blocks=3, n_frequencies=10)
    field.requires_grad_(False).to(device)
    volume = torch.randn(1, channels, *cells, *cells, device=device)
    query_xy_norm = 2 * torch.rand(n_queries, 2, device=device) - 1
    reference_xy_norm = 2 * torch.rand(n, 2, device=device) - 1
    query_index = torch.randint(n_queries, (n,), device=device)
    cell, weight = corners(query_xy_norm, cells)
    score_once = partial(
        score,
        KernelWeights.from_field(field),
        volume.movedim(1, -1).reshape(-1, channels).to(torch.bfloat16).contiguous(),
        cells,
        cells[0] * cells[1],
        reference_xy_norm,
        query_index,
        cell,
        weight,
        field.fc_p.bias + field.encode(query_xy_norm) @ field.fc_p.weight.T.chunk(2)[1],
        launch=Launch(**changes),
    )
    some = slice(0, 4096)
    expected = field(
        volume, reference_xy_norm[None, some], query_xy_norm[query_index[some]][None], positional_gradient=False
    )[0]
    measured = harness.measure(
        {"score": partial(score_once, gradient=False), "gradient": partial(score_once, gradient=True)}, device, repeats
    )
    logits, _ = measured["score"].answer
    return {
        "score, ns a candidate": 1e9 * measured["score"].median / n,
        "with gradient, ns": 1e9 * measured["gradient"].median / n,
        "error of the logits, share of their spread": float((logits[some] - expected).abs().max() / expected.std()),
    }


def _times(
    load: _Loaded, device: torch.device, hw: tuple[int, int], points: int | None, batch: int, repeats: int
) -> dict[str, float]:
    """Time of a pair in a batch, its images included, no two of which are the same."""
    matcher = load.on(device)
    pairs = [image_pair(hw, number, points=points) for number in range(batch)]
    with _GpuUse(device) as use:
        measured = harness.measure({"": lambda: list(matcher.match_batch(pairs))}, device, repeats)[""]
    return {
        "ms a pair": 1000 * measured.median / batch,
        "pairs a second": batch / measured.median,
        "memory, MB": measured.peak_mb,
        **use.as_values(),
    }


def _job(name: str, device: torch.device, n_pairs: int) -> dict[str, float]:
    """A whole `nemf match` on the GPU, from the start of the command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_manifest(Path(folder), n_pairs, min(n_pairs, 200), (375, 500))
        command = [sys.executable, "-m", "jobs.match", "--pairs", pairs, "--out", str(Path(folder, "run"))]
        command += ["--matcher", name, "--device", device.type]
        start = time.perf_counter()
        with _GpuUse(device) as use:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-500:]}")
        parts = sorted(Path(folder, "run", "parts").iterdir(), key=lambda part: part.stat().st_mtime)
        between = parts[-1].stat().st_mtime - parts[0].stat().st_mtime
    return {
        "seconds": seconds,
        "pairs a second": n_pairs / seconds,
        "between the first part and the last, pairs a second": (n_pairs - n_pairs / len(parts)) / max(between, 1e-3),
        **use.as_values(),
    }


class _GpuUse:
    """Samples of nvidia-smi while the block runs; none without a GPU or without that program."""

    def __init__(self, device: torch.device) -> None:
        self._program = shutil.which("nvidia-smi") if device.type == "cuda" else None
        self._index = device.index or 0
        self._samples: list[float] = []

    def __enter__(self) -> "_GpuUse":
        if self._program:
            query = [self._program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            self._process = subprocess.Popen([*query, "-i", str(self._index)], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._program:
            self._process.terminate()
            lines = self._process.communicate()[0].splitlines()
            self._samples = [float(line) for line in lines if line.strip().isdigit()]

    def as_values(self) -> dict[str, float]:
        """The mean share of time in which the GPU was busy."""
        return {"GPU busy, %": statistics.mean(self._samples)} if self._samples else {}


if __name__ == "__main__":
    sys.exit(main())
