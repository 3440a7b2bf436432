"""Runs a job to its end as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUPPORT = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


def run_job(name: str, argv: Sequence[str]) -> Finished:
    """`python -m jobs.NAME ARGV`, which may import from tests/support, with a Ray of its own.

    One Ray for each job: on a head that jobs joined one after another, later ones now and then hung or lost actors (Ray
    2.60; the cause is not known).
    """
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *argv],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Finished(code=done.returncode, stdout=done.stdout, stderr=done.stderr)
