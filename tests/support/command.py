"""Runs jobs as processes of their own, which need not import what takes seconds: they are forked from one that has."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

SUPPORT = Path(__file__).parent
_IMPORTED = ["torch", "pipeline.matching.driver", "nemf.load", "nemf.matchers.nearest_neighbour"]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(_IMPORTED)


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
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        job = start_job(name, argv, stdout, stderr)
        job.join(300)
        assert job.exitcode is not None, f"still running after 300 s:\n{stdout.read_text()}\n{stderr.read_text()}"
        return Finished(code=job.exitcode, stdout=stdout.read_text(), stderr=stderr.read_text())


def start_job(
    name: str,
    argv: Sequence[str],
    stdout: Path,
    stderr: Path,
    *,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """The same, just begun: as a session of its own, its output appended to files.

    folder: working folder, if not this one. environment: variables that replace or join those of this process.
    """
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(environment or {})}
    job = _SERVER.Process(target=_job, args=(name, [*argv], stdout, stderr, folder or str(Path.cwd()), variables))
    job.start()
    return job


def _job(name: str, argv: list[str], stdout: Path, stderr: Path, folder: str, environment: dict[str, str]) -> None:
    os.setsid()
    for stream, file in ((sys.stdout, stdout), (sys.stderr, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = filter(None, environment["PYTHONPATH"].split(os.pathsep))
    sys.argv = [name, *argv]
    runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)
