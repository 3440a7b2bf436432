"""`nemf NAME ...` runs `python -m jobs.NAME ...`; a '-' in NAME is a '_' of the module."""

import ast
import difflib
import importlib
import sys
from contextlib import suppress
from pathlib import Path

from jobs.output import ending_quietly

GROUPS = {
    "data": ("prepare",),
    "matching": ("match", "evaluate"),
    "labels": ("calibrate", "pseudo-label"),
    "looking": ("pair", "field", "report"),
    "training": ("train", "distil", "recipe", "pack", "import-official"),
    "running": ("status", "verify", "retry-errors", "compact", "submit", "demo"),
}
"""The commands, by what they are for."""


def main() -> int:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] not in names():
        is_help = len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help")
        with ending_quietly():
            print(help_text(), flush=True)
            if not is_help:
                print(f"error: {_unknown(sys.argv[1])}", file=sys.stderr)
        return 0 if is_help else 2
    _add_working_folder()
    name = sys.argv[1]
    sys.argv[0] = f"nemf {name}"
    return int(importlib.import_module(f"jobs.{module_of(name)}").main(sys.argv[2:]))


def _unknown(name: str) -> str:
    similar = difflib.get_close_matches(name, names(), n=1)
    return f"there is no command {name!r}" + (f"; did you mean {similar[0]}?" if similar else "")


def _add_working_folder() -> None:
    """Let modules of the working folder be imported, as `python -m` does.

    They come last: a file of a downloaded folder must not take the place of a library.
    """
    if not sys.flags.safe_path:
        with suppress(FileNotFoundError):  # the folder was removed
            sys.path.append(str(Path.cwd()))


def names() -> list[str]:
    """The commands, sorted."""
    return sorted(name for commands in GROUPS.values() for name in commands)


def module_of(name: str) -> str:
    """The module of `jobs` that holds a command."""
    return name.replace("-", "_")


def help_text() -> str:
    """Every command with its summary, by group."""
    lines = ["usage: nemf COMMAND [--help] ..."]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:16} {summary(name)}" for name in commands)]
    return "\n".join(lines)


def summary(name: str) -> str:
    """The first line of the command's docstring, read without importing what the command needs."""
    source = Path(__file__).with_name(f"{module_of(name)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
