"""Run a job on a Ray cluster: submit it, show its log, end with its exit code.

    nemf submit --address http://HEAD:8265 -- match --pairs s3://bucket/pairs.parquet --out s3://bucket/runs/x

A nemf command follows --; the cluster runs it as `python -m jobs.COMMAND`, with the nemf that is installed on its
machines or the checkout that --working-dir sends. Ctrl-C stops the job, which commits what is in flight. Cost: some
seconds before the job starts. See docs/cluster.md.
"""

import asyncio
import importlib
import json
import logging
import os
import shlex
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

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
from pipeline.cluster.errors import ClusterError
from pipeline.io.uri_field import Uri, is_relative, uris_of

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

ANSWER_SECONDS = 10
"""Timeout of the first request to a head."""
STOP_SECONDS = 600
"""Time a job gets, after the request to stop, to commit what is in flight; Ray's default is three seconds."""
LOST_SECONDS = 60
"""Time after which a job that cannot be reached any more is given up."""

_ERRORS = {
    BAD_INPUT: ValueError,
    OVER_BUDGET: OverBudgetError,
    NOT_GOOD_ENOUGH: RequirementError,
    INTERRUPTED: KeyboardInterrupt,
}
"""By exit code of the job: the error that ends this command with the same code; ClusterError for all others."""


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
            raise ValueError(f"behind -- stands a nemf command, one of {', '.join(known)}; got {given}")
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
    client = _client(address)
    submission = _submit(client, config)
    variables = f" with {', '.join(config.env)}" if config.env else ""
    print(f"{submission} is submitted to {redacted(address)}{variables}", file=sys.stderr)
    if config.wait:
        _end_as(_follow(client, submission), submission)
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


def _client(address: str) -> "JobSubmissionClient":
    """A client of the Ray head at `address`. Raises ValueError or OSError if there is none or it refuses access."""
    # Ray takes seconds to import, and a faulty command needs none of it.
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    expected = "expected the address of a head's dashboard, such as http://HEAD:8265"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--address {address}: {expected}")
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        error.close()  # a head answers; the client below raises with its reason
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {getattr(error, 'reason', error)}; {expected}") from error
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers the variable to the argument
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise PermissionError(
            f"{error.message.splitlines()[0]}: the Ray at {address} wants RAY_AUTH_MODE=token and its token, in the "
            "file RAY_AUTH_TOKEN_PATH or in RAY_AUTH_TOKEN"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{address}: {error}; {expected}") from error


def _submit(client: "JobSubmissionClient", config: Config) -> str:
    """The id of the submission. Raises ClusterError if Ray refuses the job."""
    runtime_env: dict[str, Any] = {
        "env_vars": {name: os.environ[name] for name in config.env} | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    }
    if config.working_dir is not None:
        runtime_env["working_dir"] = config.working_dir
    try:
        return client.submit_job(entrypoint=config.entrypoint, runtime_env=runtime_env)
    except RuntimeError as error:
        raise ClusterError(f"Ray took no job: {error}") from error


def _holds_a_secret(word: str) -> bool:
    """Whether an argument is, or ends in, JSON with a secret, as storage options may."""
    try:
        return any(secrets_of(json.loads(word[word.index("{") :])))
    except ValueError:
        return False


def _follow(client: "JobSubmissionClient", submission: str) -> "JobDetails":
    """Show the job's log until it ends; its details. Ctrl-C stops the job, a second one does not wait for its end."""
    log = _Log(client, submission)
    try:
        return log.follow()
    except KeyboardInterrupt:
        print("\nstopping the job, which commits what is in flight; Ctrl-C leaves it to that", file=sys.stderr)
    try:
        _stop(client, submission)
        return log.follow()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{submission} was asked to stop and has not ended yet") from None


def _stop(client: "JobSubmissionClient", submission: str) -> None:
    """Ask the job to stop. Raises ClusterError if the request fails."""
    try:
        client.stop_job(submission)
    except RuntimeError as error:
        raise ClusterError(f"{submission} could not be asked to stop and may go on: {error}") from error


class _Log:
    """The log of a job, printed without repetition when the connection is lost and made again."""

    def __init__(self, client: "JobSubmissionClient", submission: str) -> None:
        self._client = client
        self._submission = submission
        self._shown = 0

    def follow(self) -> "JobDetails":
        """Print the log until the job ends; its details. Raises ClusterError after LOST_SECONDS without an answer."""
        from aiohttp import ClientError

        answered_at = time.monotonic()
        while True:
            try:
                asyncio.run(self._show())
                details = self._client.get_job_info(self._submission)
            except (ClientError, OSError, RuntimeError) as error:
                if time.monotonic() > answered_at + LOST_SECONDS:
                    raise ClusterError(f"lost sight of {self._submission}, which may go on: {error}") from error
            else:
                if details.status.is_terminal():
                    return details
                answered_at = time.monotonic()
            time.sleep(1)

    async def _show(self) -> None:
        n_read = 0  # a new connection starts at the beginning of the log
        async for text in self._client.tail_job_logs(self._submission):
            print(text[max(0, self._shown - n_read) :], end="", flush=True)
            n_read += len(text)
            self._shown = max(self._shown, n_read)


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
