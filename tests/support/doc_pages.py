"""What can be run of a page of the documentation."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
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


def python_of(text: str) -> list[str]:
    """The Python snippets of a page."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
