"""Output whose reader has gone, or that cannot be written."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from jobs.command import run_command
from jobs.output import CLOSED, closed_streams, ending_quietly


@pytest.fixture
def unread() -> Iterator[Callable[[], TextIO]]:
    """Makes pipes whose reader has gone."""
    pipes: list[TextIO] = []

    def make() -> TextIO:
        reader, writer = os.pipe()
        os.close(reader)
        pipes.append(os.fdopen(writer, "w"))
        return pipes[-1]

    yield make
    for pipe in pipes:
        with suppress(BrokenPipeError):
            pipe.close()


@dataclass(frozen=True, kw_only=True)
class Config:
    lines: int = 1
    """Lines to print."""


def _print(config: Config) -> None:
    for number in range(config.lines):
        print(f"line {number}")


@pytest.mark.parametrize("arguments", [["--lines", "1"], ["--lines", "100000"], ["--help"]])
def test_output_without_a_reader_ends_a_command_quietly(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unread: Callable[[], TextIO],
    arguments: list[str],
) -> None:
    monkeypatch.setattr("sys.stdout", unread())

    with pytest.raises(SystemExit) as end:
        run_command(Config, _print, arguments)

    assert end.value.code == CLOSED == 141
    assert capsys.readouterr().err == ""
    print("and what follows goes nowhere", flush=True)


def test_errors_without_a_reader_end_a_command_quietly(
    monkeypatch: pytest.MonkeyPatch, unread: Callable[[], TextIO]
) -> None:
    def run(_config: Config) -> None:
        raise ValueError("nobody will know")

    monkeypatch.setattr("sys.stderr", unread())

    with pytest.raises(SystemExit) as end:
        run_command(Config, run, [])

    assert end.value.code == CLOSED


def test_a_broken_connection_is_no_missing_reader(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_config: Config) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    assert run_command(Config, run, []) == 2
    assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"
    with pytest.raises(BrokenPipeError), ending_quietly():
        raise BrokenPipeError


def test_a_pipe_with_a_reader_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert closed_streams() == []


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run_command(Config, _print, []) == 2

    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


def test_a_command_without_stdout_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)

    assert run_command(Config, _print, []) == 0

    sys.stdout.close()


@pytest.mark.parametrize(
    "arguments", [["-m", "jobs.cli"], ["-m", "jobs.cli", "nothing"], ["-m", "jobs.cli", "prepare", "--help"]]
)
def test_nemf_without_a_reader(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, *arguments], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert process.returncode == CLOSED
    assert b"Broken" not in process.stderr
    assert b"Exception" not in process.stderr
