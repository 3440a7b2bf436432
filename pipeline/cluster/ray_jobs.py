"""Ray's jobs from outside the cluster: a client of the head, submission, and following a job to its end."""

import asyncio
import logging
import os
import sys
import time
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from nemf.io.redact import redacted
from pipeline.cluster.errors import ClusterError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

ANSWER_SECONDS = (10, 30, 60)
"""Timeouts of the first request to a head, one for each try: a busy head accepts the connection and answers late."""
STOP_SECONDS = 600
"""Time a job gets, after the request to stop, to commit what is in flight; Ray's default is three seconds."""
LOST_SECONDS = 60
"""Time after which a job that cannot be reached any more is given up."""


def connect(address: str) -> "JobSubmissionClient":
    """A client of the Ray head at `address`.

    Raises ValueError or OSError if there is none, it refuses access, or it is of another minor version than this Ray.
    """
    # Ray takes seconds to import, and a faulty command needs none of it.
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    expected = "expected the address of a head's dashboard, such as http://HEAD:8265"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--address {address}: {expected}")
    try:
        _wait_for_answer(f"{address.rstrip('/')}/api/version")
    except HTTPError as error:
        error.close()  # a head answers; the client below raises with its reason
    except OSError as error:
        raise ConnectionError(f"no Ray answers at {address}: {getattr(error, 'reason', error)}; {expected}") from error
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers the variable to the argument
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        raise PermissionError(
            f"{error.message.splitlines()[0]}: the Ray at {address} wants RAY_AUTH_MODE=token and its token, in the "
            "file RAY_AUTH_TOKEN_PATH or in RAY_AUTH_TOKEN"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{address}: {error}; {expected}") from error
    _check_version(client, address)
    return client


def _check_version(client: "JobSubmissionClient", address: str) -> None:
    """Raises ValueError if the head's Ray and this one differ by more than the patch, as 2.53.0 and 2.54.0 do."""
    import ray

    theirs = client._do_request("GET", "/api/version").json()["ray_version"]  # Ray has no public name for it
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise ValueError(
            f"the cluster at {redacted(address)} runs Ray {theirs}, and this is Ray {ray.__version__}: jobs are "
            f"submitted from the same minor version; here: pip install 'ray[data,default]=={theirs}'"
        )


def _wait_for_answer(url: str) -> None:
    """Raises OSError if nothing answers, at once unless the connection was accepted."""
    for number, seconds in enumerate(ANSWER_SECONDS, start=1):
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
            return
        except TimeoutError:  # a connection that is not accepted in time is a URLError
            if number == len(ANSWER_SECONDS):
                raise
            print(f"no answer from {redacted(url)} in {seconds} s; trying again", file=sys.stderr, flush=True)


def submit(
    client: "JobSubmissionClient", entrypoint: str, *, environment: Mapping[str, str], working_dir: str | None
) -> str:
    """Submit a shell command as a job; returns the id of the submission. Raises ClusterError if Ray refuses it.

    environment: variables that are set for the job. working_dir: folder to send and to run in; None for none.
    """
    runtime_env: dict[str, Any] = {"env_vars": {**environment, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
    if working_dir is not None:
        runtime_env["working_dir"] = working_dir
    try:
        return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    except RuntimeError as error:
        raise ClusterError(f"Ray took no job: {error}") from error


def follow(client: "JobSubmissionClient", submission: str) -> "JobDetails":
    """Show the job's log until it ends; returns its details. Ctrl-C stops the job, a second one does not wait for its
    end."""
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
        """Print the log until the job ends; returns its details. Raises ClusterError after LOST_SECONDS without an
        answer."""
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
