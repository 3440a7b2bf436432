"""Run a job on a Ray cluster: submit it, show its log, end with its exit code.

    nemf submit --address http://HEAD:8265 -- match --pairs s3://bucket/pairs.parquet --out s3://bucket/runs/x

What stands behind -- is a nemf command; the cluster runs it as `python -m jobs.COMMAND`, with the nemf that is
installed on its machines or the checkout that --working-dir sends. Ctrl-C stops the job, which commits what is in
flight. Cost: some seconds before the job starts. See docs/cluster.md.
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
"""How long a head may take to answer at all."""
STOP_SECONDS = 600
"""How long a job that was asked to stop may take to commit what is in flight; Ray's own limit is three seconds."""
LOST_SECONDS = 60
"""How long a job is looked for after the connection was lost."""

_ERRORS = {
    BAD_INPUT: ValueError,
    OVER_BUDGET: OverBudgetError,
    NOT_GOOD_ENOUGH: RequirementError,
    INTERRUPTED: KeyboardInterrupt,
}
"""By exit code of the job: what ends this command with the same one; ClusterError for all others."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run on which cluster."""

    job: tyro.conf.Positional[tuple[str, ...]]
    """The command and its flags, behind --: match --pairs ... --out ..."""
    address: str | None = None
    """Address of the head's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS."""
    working_dir: Uri | None = None
    """Folder to send and to run in, such as a checkout of nemf; default: what the cluster has installed is run."""
    env: Names = ()
    """Environment variables to pass on. Who may use the cluster can read them: secrets belong to its machines."""
    wait: bool = True
    """Show the log and end as the job ends; --no-wait: print the id of the submission and leave."""

    def check(self) -> None:
        """Raises ValueError for what cannot be submitted."""
        known = [name for name in cli.names() if name != "submit"]
        if not self.job or self.job[0] not in known:
            asked = repr(self.job[0]) if self.job else "nothing"
            raise ValueError(f"behind -- stands a nemf command, one of {', '.join(known)}; got {asked}")
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
        """The shell's line that the cluster runs."""
        module = cli.module_of(self.job[0])
        return shlex.join(["python", "-m", f"jobs.{module}", *self.job[1:]])


def run(config: Config) -> str:
    """Submit the job and, unless told otherwise, follow it to its end; the id of the submission.

    Raises ValueError or OSError for what the caller can mend, and otherwise as the job would have: for exit code 3
    OverBudgetError, for 4 RequirementError, for 130 KeyboardInterrupt, and ClusterError for all others.
    """
    config.check()
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ValueError("which cluster? Give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    client = _client(address)
    submission = _submit(client, config)
    passed_on = f" with {', '.join(config.env)}" if config.env else ""
    print(f"{submission} is submitted to {redacted(address)}{passed_on}", file=sys.stderr)
    if config.wait:
        _end_as(_followed(client, submission), submission)
    else:
        to_it = f"--address {redacted(address)} {submission}"
        print(f"log: ray job logs --follow {to_it}\nstop: ray job stop {to_it}", file=sys.stderr)
        print(submission)
    return submission


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _paths(command: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag, path or URI) for each that the words behind a command give; @path for a file of storage options.

    Raises as `parse` does.
    """
    module = importlib.import_module(f"jobs.{cli.module_of(command)}")
    config_type = module.config_type_of(words) if hasattr(module, "config_type_of") else module.Config
    config, storage_options = parse(config_type, words, command, module.__doc__)
    for name, uri in uris_of(config):
        yield flag_of(config_type, name), uri
    if storage_options is not None and storage_options.startswith("@"):
        yield "--storage-options", storage_options


def _client(address: str) -> "JobSubmissionClient":
    """Raises ValueError or OSError if no Ray at `address` lets us in."""
    # Ray takes seconds to import, and a faulty command needs none of it.
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    expected = "expected the address of a head's dashboard, such as http://HEAD:8265"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--address {address}: {expected}")
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        error.close()  # it answers: what it has against us, the client says
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {getattr(error, 'reason', error)}; {expected}") from error
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray prefers to what it is told
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
    """Whether a word of the command is, or ends in, JSON with a secret in it, as storage options may."""
    try:
        return any(secrets_of(json.loads(word[word.index("{") :])))
    except ValueError:
        return False


def _followed(client: "JobSubmissionClient", submission: str) -> "JobDetails":
    """The job when it has ended; Ctrl-C asks it to end, a second one leaves it to that."""
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
    try:
        client.stop_job(submission)
    except RuntimeError as error:
        raise ClusterError(f"{submission} could not be asked to stop and may go on: {error}") from error


class _Log:
    """What a job prints, shown once however often the connection is lost."""

    def __init__(self, client: "JobSubmissionClient", submission: str) -> None:
        self._client = client
        self._submission = submission
        self._shown = 0

    def follow(self) -> "JobDetails":
        """Show the log until the job has ended. Raises ClusterError if the job cannot be found any more."""
        from aiohttp import ClientError

        seen_at = time.monotonic()
        while True:
            try:
                asyncio.run(self._show())
                details = self._client.get_job_info(self._submission)
            except (ClientError, OSError, RuntimeError) as error:
                if time.monotonic() > seen_at + LOST_SECONDS:
                    raise ClusterError(f"lost sight of {self._submission}, which may go on: {error}") from error
            else:
                if details.status.is_terminal():
                    return details
                seen_at = time.monotonic()
            time.sleep(1)

    async def _show(self) -> None:
        n_read = 0  # a new connection begins at the beginning
        async for text in self._client.tail_job_logs(self._submission):
            print(text[max(0, self._shown - n_read) :], end="", flush=True)
            n_read += len(text)
            self._shown = max(self._shown, n_read)


def _end_as(details: "JobDetails", submission: str) -> None:
    """Returns if the job succeeded, and otherwise raises as the job would have."""
    status, code = details.status.value, details.driver_exit_code
    if status == "STOPPED":
        raise KeyboardInterrupt(f"{submission} was stopped; submit the same command again to go on")
    if status == "FAILED":
        if code is None:
            raise ClusterError(f"{submission} did not run: {details.message}")
        raise _ERRORS.get(code, ClusterError)(f"{submission} ended with exit code {code}, see its log above")


if __name__ == "__main__":
    sys.exit(main())
