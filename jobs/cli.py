"""`nemf NAME ...` runs `python -m jobs.NAME ...`; a '-' in NAME is a '_' of the module."""

import importlib
import pkgutil
import sys

import jobs

_NOT_JOBS = {"cli", "command", "recipes"}


def main() -> int:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] not in names():
        asked_for_help = len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help")
        if not asked_for_help:
            print(f"error: there is no command {sys.argv[1]!r}", file=sys.stderr)
        print("usage: nemf COMMAND [--help] ...\ncommands: " + ", ".join(names()))
        return 0 if asked_for_help else 2
    name = sys.argv[1]
    sys.argv[0] = f"nemf {name}"
    return int(importlib.import_module(f"jobs.{name.replace('-', '_')}").main(sys.argv[2:]))


def names() -> list[str]:
    """The commands there are, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(jobs.__path__) if module.name not in _NOT_JOBS)
    return sorted(name.replace("_", "-") for name in modules)


if __name__ == "__main__":
    sys.exit(main())
