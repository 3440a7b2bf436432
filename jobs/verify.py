"""Recount a run folder against its manifest and name every problem.

    nemf verify runs/x

Prints the counts. Exit code 0 if the run is finished and whole, 2 with every problem named if not. Reads the key
columns of all parts, starts nothing, changes nothing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from jobs.command import run_command
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.io.uri_field import Uri
from pipeline.runs.counts import Count, summary
from pipeline.runs.folder import read_run


@dataclass(frozen=True, kw_only=True)
class Config:
    """The run, and its manifest."""

    out: tyro.conf.Positional[Uri]
    """Run folder, path or URI."""
    pairs: Uri | None = None
    """The manifest, if it is no longer where the run found it."""


def run(config: Config) -> Count:
    """Returns the counts. Raises ValueError listing every problem, FileNotFoundError if `out` is no run folder."""
    out = storage.absolute(config.out)
    run_folder = read_run(out)
    pairs = run_folder.config["pairs"] if config.pairs is None else config.pairs
    success = run_folder.success()
    with Manifest(pairs) as manifest:
        ids, digest = manifest.ids(), manifest.digest()
    count = run_folder.count(ids, run_folder.limit())
    print(summary(out, count))
    problems = []
    if digest != run_folder.manifest_digest:
        problems.append(f"{pairs} is not the manifest this run was made from")
    if success is None:
        problems.append("the run is not finished (no _SUCCESS): run the same command again")
    elif success.get("rows_digest") != count.digest:
        problems.append("the rows are not those that _SUCCESS counted: some were lost, added or replaced")
    if count.missing:
        problems.append(f"{count.missing} rows are missing")
    if count.unexpected:
        problems.append(f"{count.unexpected} rows are of another run, or of pairs that the manifest does not have")
    if problems:
        raise ValueError(f"{out}: " + "; ".join(problems))
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
