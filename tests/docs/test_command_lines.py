"""Every command line that the documentation shows is one that its command accepts."""

import importlib
import shlex
from pathlib import Path

import pytest
from doc_pages import ROOT, command_lines

from jobs import cli
from jobs.command import parse

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """What the command has against these words; None if it accepts them."""
    name, *arguments = words
    if "--" in arguments:  # what follows is the command line of another command
        (at,) = (number for number, word in enumerate(arguments) if word == "--")
        return refusal(arguments[at + 1 :], capsys)
    module = importlib.import_module(f"jobs.{cli.module_of(name)}")
    try:
        config_type = module.config_type_of(arguments) if hasattr(module, "config_type_of") else module.Config
        parse(config_type, arguments, name)
    except ValueError as error:
        return str(error)
    except SystemExit:
        return capsys.readouterr().err
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_command_lines_of_a_page_are_accepted(page: Path, capsys: pytest.CaptureFixture[str]):
    refused = {
        shlex.join(words): found
        for words in command_lines(page.read_text("utf-8"))
        if "my_" not in shlex.join(words)  # modules that a page has written: test_snippets runs these
        if (found := refusal(words, capsys)) is not None
    }
    assert refused == {}


def test_command_lines_are_found():
    text = "    nemf match --pairs a \\\n        --out b    # why\nnemf status x       at work or not\nnemf field ...\n"
    assert list(command_lines(text)) == [["match", "--pairs", "a", "--out", "b"], ["status", "x"]]


@pytest.mark.parametrize("words", ["match --pairs a", "match --pairs a --out b --no-such-flag c"])
def test_a_command_line_that_is_wrong_is_refused(words: str, capsys: pytest.CaptureFixture[str]):
    assert refusal(words.split(), capsys)
