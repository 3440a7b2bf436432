"""Show the state of a run: active or not, progress, rate, errors by reason.

    nemf status runs/x

Works from any machine that can read the run folder, at any time, without Ray. Opens no part: a second, whatever the
number of pairs. Exit code 0 whatever the state, 2 if there is no run; programs read `state` of --json.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from jobs.command import run_command
from pipeline.io import storage
from pipeline.io.uri_field import Uri
from pipeline.runs.status import Status, as_text, read_status


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run, and the form of the output."""

    out: tyro.conf.Positional[Uri]
    """Run folder, path or URI."""
    json: bool = False
    """Print JSON, for programs."""


def run(config: Config) -> Status:
    """Print the status, and return it. Raises FileNotFoundError if `out` is no run folder."""
    status = read_status(storage.absolute(config.out))
    print(json.dumps(status.to_json(), indent=2) if config.json else as_text(status))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
