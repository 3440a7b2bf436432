"""Every command line that the documentation shows is one that its command accepts."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import cli
from jobs.command import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_OPERATORS = ("&&", "||", ";", "|")


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each complete `nemf` command: of the lines that begin with it, without what explains them."""
    for line in re.findall(r"^ *(nemf [a-z].*)$", re.sub(r"\\\n *", "", text), re.MULTILINE):
        command = re.split(r"(?<=\S) {5,}(?!--)", line)[0]  # wider than any gap within a command
        if "..." in command or ":" in command.split()[0]:
            continue
        words = shlex.split(command, comments=True)
        ends = [number for number, word in enumerate(words) if word in _OPERATORS]
        yield words[1 : ends[0] if ends else None]


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
