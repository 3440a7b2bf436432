"""The benchmark of a GPU runs without one, and says what it left out; the measured values are not asserted."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

TINY = {"size": "24x16", "points": 2, "batches": (1, 2), "repeats": 1, "device": "cpu", "job_pairs": 4}


def test_without_a_gpu_the_script_works_and_says_what_it_left_out(tmp_path: Path):
    matchers = ("identity", "nemf-small?precision=bfloat16")

    rows = gpu.run(gpu.Config(matchers=matchers, out=str(tmp_path), **TINY))

    left_out = {(row.part, row.work) for row in rows if row.note == gpu.NO_GPU}
    assert {part for part, _ in left_out} == {"answers", "job", "times", "kernel"}
    measured = [row for row in rows if row.values]
    assert len(measured) + len(left_out) == len(rows)
    assert [row.work for row in measured] == [
        "identity, in a batch and alone",
        "identity, 2 keypoints, batch 1",
        "identity, 2 keypoints, batch 2",
        "identity, dense, batch 1",
        "identity, dense, batch 2",
    ]
    assert measured[0].values == {"pairs": 2, "with other bits": 0}
    assert all(row.values["pairs a second"] > 0 for row in measured[1:])
    assert "| kernel | as it ships | left out: needs a GPU |" in (tmp_path / "gpu.md").read_text()
    assert len(json.loads((tmp_path / "gpu.json").read_text())["rows"]) == len(rows)


def test_what_fails_or_comes_too_late_is_said_and_the_rest_runs():
    rows = gpu.run(gpu.Config(matchers=("no such matcher", "identity"), **TINY))

    failed, good = rows[1], rows[3]
    assert failed.note.startswith("failed: ValueError: there is no matcher 'no such matcher'")
    assert good.values == {"pairs": 2, "with other bits": 0}

    late = gpu.run(gpu.Config(matchers=("identity",), minutes=-1, **TINY))
    assert {row.note for row in late} == {gpu.NO_GPU, gpu.NO_TIME}


def test_answers_of_a_gpu_are_compared_with_those_of_the_cpu():
    """Here the CPU beside itself: nothing is apart."""
    parts = list(gpu._parts(gpu.Config(matchers=("identity",), **TINY), gpu.find_device("cpu")))

    values = parts[0].measure()

    assert values == {"points": 4, "more than .5 px apart, %": 0, "median distance, px": 0, "greatest, px": 0}


@pytest.mark.long
def test_the_kernel_is_compared_with_the_field():
    script = "import torch; from benchmarks import gpu; print(gpu._kernel({'warps': 4}, torch.device('cpu'), 8, 0))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    values = ast.literal_eval(done.stdout)

    assert 0 < values.pop("error of the logits, share of their spread") < 0.03  # bfloat16
    assert min(values.values()) > 0
