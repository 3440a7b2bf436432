"""Run a job on a Ray cluster: submit it, show its log, end with its exit code.

    nemf submit --address http://HEAD:8265 -- match --pairs s3://bucket/pairs.parquet --out s3://bucket/runs/x

A nemf command follows --; the cluster runs it as `python -m jobs.COMMAND`, with the nemf that is installed on its
machines or the checkout that --working-dir sends. Ctrl-C stops the job, which commits what is in flight. Cost: some
seconds before the job starts. See docs/cluster.md.
"""

import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jobs import cli
from jobs.command import (
    BAD_INPUT,
    INTERRUPTED,
    NOT_GOOD_ENOUGH,
    OVER_BUDGET,
    Names,
    OverBudgetError,
    RequirementError,
    flag_of,
    parse,
    run_command,
)
from nemf.io.redact import redacted, secrets_of
from pipeline.cluster import ray_jobs
from pipeline.cluster.errors import ClusterError
from pipeline.io.uri_field import Uri, is_relative, uris_of

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

_ERRORS = {
    BAD_INPUT: ValueError,
    OVER_BUDGET: OverBudgetError,
    NOT_GOOD_ENOUGH: RequirementError,
    INTERRUPTED: KeyboardInterrupt,
}
"""The error that ends this command with the same exit code as the job's, by that code; ClusterError for all others."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A command, and the cluster to run it on."""

    job: tyro.conf.Positional[tuple[str, ...]]
    """The command and its flags, after --: match --pairs ... --out ..."""
    address: str | None = None
    """Address of the head's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS."""
    working_dir: Uri | None = None
    """Folder to send to the cluster and to run in, such as a checkout of nemf; default: the installed nemf runs."""
    env: Names = ()
    """Environment variables to pass on. All users of the cluster can read them: set secrets on its machines instead."""
    wait: bool = True
    """Show the log and exit with the job's exit code; --no-wait: print the id of the submission and exit at once."""

    def check(self) -> None:
        """Raises ValueError for a command, a path or an environment variable that cannot be submitted."""
        known = [name for name in cli.names() if name != "submit"]
        if not self.job or self.job[0] not in known:
            given = repr(self.job[0]) if self.job else "nothing"
            raise ValueError(f"expected a nemf command after --: {', '.join(known)}; got {given}")
        if unset := [name for name in self.env if name not in os.environ]:
            raise ValueError(f"--env {','.join(unset)}: not set here")
        if self.working_dir is not None and not Path(self.working_dir).is_dir():
            raise ValueError(f"--working-dir {self.working_dir} is no folder")
        if redacted(self.entrypoint) != self.entrypoint or any(map(_holds_a_secret, self.job)):
            raise ValueError(
                "the command holds a secret, and Ray shows the commands of jobs to all its users; it is "
                f"{redacted(self.entrypoint)!r}: let the cluster's machines know the secret, see docs/cluster.md"
            )
        for flag, path in _paths(self.job[0], self.job[1:]):
            if is_relative(path.removeprefix("@")):
                raise ValueError(
                    f"{flag} {path} is relative to this machine's folder, and the job runs on others: give a URI such "
                    "as s3://bucket/..., or an absolute path that all machines of the cluster share"
                )

    @property
    def entrypoint(self) -> str:
        """The shell command that the cluster runs."""
        module = cli.module_of(self.job[0])
        return shlex.join(["python", "-m", f"jobs.{module}", *self.job[1:]])


def run(config: Config) -> str:
    """Submit the job and, with config.wait, follow it to its end. Returns the id of the submission.

    Raises ValueError or OSError for bad input, here or in the job (exit code 2), OverBudgetError for the job's exit
    code 3, RequirementError for 4, KeyboardInterrupt for 130, and ClusterError for all others.
    """
    config.check()
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ValueError("which cluster? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    client = ray_jobs.connect(address)
    environment = {name: os.environ[name] for name in config.env}
    submission = ray_jobs.submit(client, config.entrypoint, environment=environment, working_dir=config.working_dir)
    variables = f" with {', '.join(config.env)}" if config.env else ""
    print(f"{submission} is submitted to {redacted(address)}{variables}", file=sys.stderr)
    if config.wait:
        _end_as(ray_jobs.follow(client, submission), submission)
    else:
        target = f"--address {redacted(address)} {submission}"
        print(f"log: ray job logs --follow {target}\nstop: ray job stop {target}", file=sys.stderr)
        print(submission)
    return submission


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _paths(command: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag, path or URI) for every path and URI on a command line; @path for a file of storage options.

    words: the command line after the command's name. Raises as `parse` does.
    """
    module = importlib.import_module(f"jobs.{cli.module_of(command)}")
    config_type = module.config_type_of(words) if hasattr(module, "config_type_of") else module.Config
    config, storage_options = parse(config_type, words, command, module.__doc__)
    for name, uri in uris_of(config):
        yield flag_of(config_type, name), uri
    if storage_options is not None and storage_options.startswith("@"):
        yield "--storage-options", storage_options


def _holds_a_secret(word: str) -> bool:
    """Whether an argument is, or ends in, JSON with a secret, as storage options may."""
    try:
        return any(secrets_of(json.loads(word[word.index("{") :])))
    except ValueError:
        return False


def _end_as(details: "JobDetails", submission: str) -> None:
    """Raise the error that ends this command with the exit code of the job; return if the job succeeded."""
    status, code = details.status.value, details.driver_exit_code
    if status == "STOPPED":
        raise KeyboardInterrupt(f"{submission} was stopped; submit the same command again to go on")
    if status == "FAILED":
        if code is None:
            raise ClusterError(f"{submission} did not run: {details.message}")
        raise _ERRORS.get(code, ClusterError)(f"{submission} ended with exit code {code}, see its log above")


if __name__ == "__main__":
    sys.exit(main())
