"""The output of `nemf` without a known command."""

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

import jobs
from jobs import cli


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nemf", *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    return cli.main()


def test_every_command_is_in_one_group() -> None:
    modules = [importlib.import_module(f"jobs.{module.name}") for module in pkgutil.iter_modules(jobs.__path__)]
    commands = [module.__name__ for module in modules if hasattr(module, "Config") and hasattr(module, "main")]

    assert [f"jobs.{cli.module_of(name)}" for name in cli.names()] == sorted(commands)
    assert len(set(cli.names())) == len(cli.names())


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_lists_every_command_with_its_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(monkeypatch, *words) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: nemf COMMAND [--help] ..."
    assert [line for line in lines if line.endswith(":")] == [
        "data:",
        "matching:",
        "labels:",
        "looking:",
        "training:",
        "running:",
    ]
    summaries = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert list(summaries) == [name for commands in cli.GROUPS.values() for name in commands]
    assert summaries["prepare"] == importlib.import_module("jobs.prepare").__doc__.splitlines()[0]
    assert all(summary.endswith(".") and len(summary) <= 90 for summary in summaries.values())


@pytest.mark.parametrize(
    ("word", "hint"),
    [("mtach", "; did you mean match?"), ("retry_errors", "; did you mean retry-errors?"), ("zzz", "")],
)
def test_an_unknown_command_is_an_error_that_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str, hint: str
) -> None:
    assert run(monkeypatch, word) == 2

    out, error = capsys.readouterr()
    assert error == f"error: there is no command {word!r}{hint}\n"
    assert "\n  match  " in out


def test_modules_of_the_working_folder_are_found_as_by_python_m(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = (
        '"""Own pairs."""',
        "from pipeline.datasets.common.interface import DatasetOptions",
        "def pairs(options: DatasetOptions): yield from ()",
    )
    (tmp_path / "my_own_pairs.py").write_text("\n".join(code))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "prepare", "--dataset", "my_own_pairs:pairs", "--help")

    assert stopped.value.code == 0
    assert "Own pairs." in capsys.readouterr().out
    assert sys.path[-1] == str(tmp_path)  # last, so that no file there takes the place of a library
