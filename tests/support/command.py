"""Runs a job's command in this process and captures its output."""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str


def run_main(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> Finished:
    """Call a job's main(); for fixtures with module scope, which cannot use capsys."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main(argv)
    return Finished(code=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())
