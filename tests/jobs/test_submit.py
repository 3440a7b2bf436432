"""What jobs.submit does before there is a cluster, and with what a cluster answers."""

import re
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from jobs import submit
from jobs.command import OverBudgetError, RequirementError
from jobs.submit import Config, main
from pipeline.cluster.errors import ClusterError

MATCH = ["--", "match", "--pairs", "s3://b/pairs.parquet", "--out", "s3://b/run"]


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "matsch"], "behind -- stands a nemf command, one of .*evaluate, .*match, .*; got 'matsch'"),
        (["--", "submit"], "behind -- stands a nemf command, .*; got 'submit'"),
        ([], "behind -- stands a nemf command, .*; got nothing"),
        (MATCH, "which cluster"),
        (["--address", "head:8265", *MATCH], "--address head:8265: expected the address of a head's dashboard"),
        (["--env", "NOT_SET_ANYWHERE", *MATCH], "--env NOT_SET_ANYWHERE: not set here"),
        (["--working-dir", "/nowhere", *MATCH], "--working-dir /nowhere is no folder"),
        (
            ["--", "match", "--pairs", "s3://b/p", "--out", "runs/x"],
            "--out runs/x is relative to this machine's folder",
        ),
        (["--", "match", "--pairs=p.parquet", "--out", "/nfs/x"], "--pairs p.parquet is relative"),
        (
            ["--", "train", "--pairs", "s3://b/p,q.parquet", "--out", "/nfs/x"],
            "--pairs q.parquet is relative",
        ),
        (
            ["--", "match", "--pairs", "https://me:pass@host/p.parquet", "--out", "/nfs/x"],
            r"the command holds a secret, .*https://\*\*\*@host/p.parquet",
        ),
        (
            ["--", "match", "--storage-options", '{"s3": {"secret": "hunter2hunter2"}}', "--out", "s3://b/x"],
            "the command holds a secret",
        ),
    ],
)
def test_what_cannot_be_submitted_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(words) == 2

    error = capsys.readouterr().err
    assert re.match(f"error: {message}", error)
    assert error.count("\n") == 1


def test_where_nothing_answers_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    assert main(["--address", f"http://127.0.0.1:{port}", *MATCH]) == 2

    assert re.match(
        rf"error: no Ray answers at http://127.0.0.1:{port}: .*refused; expected the address of a head's dashboard",
        capsys.readouterr().err,
    )


def test_the_shell_gets_every_word_as_it_was_given() -> None:
    config = Config(job=("import-official", "it's here", "--out", "a b;c"))

    assert config.entrypoint == """python -m jobs.import_official 'it'"'"'s here' --out 'a b;c'"""


class _Cluster:
    """Answers as a JobSubmissionClient does; every connection begins at the beginning of the log."""

    def __init__(self, *connections: list[str | Exception], ends_as: JobStatus = JobStatus.SUCCEEDED) -> None:
        self._connections = list(connections)
        self._ends_as = ends_as
        self.stopped: list[str] = []

    async def tail_job_logs(self, _submission: str) -> AsyncIterator[str]:
        for said in self._connections.pop(0):
            if isinstance(said, BaseException):
                raise said
            yield said

    def get_job_info(self, _submission: str) -> Any:
        status = JobStatus.RUNNING if self._connections else self._ends_as
        return SimpleNamespace(status=status, driver_exit_code=None, message="")

    def stop_job(self, submission: str) -> bool:
        self.stopped.append(submission)
        return True


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


@pytest.mark.usefixtures("_no_waiting")
def test_a_lost_connection_repeats_nothing_and_misses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cluster: Any = _Cluster(
        ["one\ntw", RuntimeError("closed unexpectedly")],
        [ConnectionError("no route")],
        ["one\n", "two\nthree\n", RuntimeError("closed unexpectedly")],
        ["one\ntwo\nthree\nfour\n"],
    )

    assert submit._follow(cluster, "job").status == JobStatus.SUCCEEDED

    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"
    assert cluster.stopped == []


@pytest.mark.usefixtures("_no_waiting")
def test_a_job_that_is_never_seen_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    cluster: Any = _Cluster(*[[ConnectionError("no route")]] * 9)

    with pytest.raises(ClusterError, match="lost sight of job, which may go on: no route"):
        submit._follow(cluster, "job")


@pytest.mark.usefixtures("_no_waiting")
def test_ctrl_c_stops_the_job_and_its_last_words_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    cluster: Any = _Cluster(["one\n", KeyboardInterrupt()], ["one\nlast words\n"], ends_as=JobStatus.STOPPED)

    details = submit._follow(cluster, "job")

    assert cluster.stopped == ["job"]
    assert capsys.readouterr().out == "one\nlast words\n"
    with pytest.raises(KeyboardInterrupt, match="job was stopped"):
        submit._end_as(details, "job")


@pytest.mark.usefixtures("_no_waiting")
def test_a_second_ctrl_c_leaves_the_job_to_its_end() -> None:
    cluster: Any = _Cluster([KeyboardInterrupt()], [KeyboardInterrupt()], ["never read"])

    with pytest.raises(KeyboardInterrupt, match="job was asked to stop and has not ended yet"):
        submit._follow(cluster, "job")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, ClusterError),
        (2, ValueError),
        (3, OverBudgetError),
        (4, RequirementError),
        (130, KeyboardInterrupt),
        (127, ClusterError),
        (-9, ClusterError),
    ],
)
def test_an_exit_code_becomes_the_error_that_ends_with_it(code: int, error: type[BaseException]) -> None:
    details: Any = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=code)

    with pytest.raises(error, match=f"job ended with exit code {code}, see its log above"):
        submit._end_as(details, "job")


def test_a_job_that_never_ran_says_why() -> None:
    details: Any = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=None, message="no such package")

    with pytest.raises(ClusterError, match="job did not run: no such package"):
        submit._end_as(details, "job")
