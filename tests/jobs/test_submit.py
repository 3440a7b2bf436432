"""Commands that jobs.submit refuses, and its exit codes."""

import re
import socket
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
        (["--", "matsch"], "expected a nemf command after --: .*evaluate, .*match, .*; got 'matsch'"),
        (["--", "submit"], "expected a nemf command after --: .*; got 'submit'"),
        ([], "expected a nemf command after --: .*; got nothing"),
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
            ["--", "prepare", "--dataset=folder", "--root=/d", "--out=/o.parquet", "--pairing", "names.txt"],
            "--pairing names.txt is relative to this machine's folder",
        ),
        (
            [
                "--address=head:1",
                "--",
                "prepare",
                "--dataset=folder",
                "--root=/d",
                "--out=/o.parquet",
                "--pairing=star",
            ],
            "--address head:1: expected the address of a head's dashboard",
        ),
        (
            ["--", "prepare", "--dataset=image-list", "--root=/d", "--out=/o.parquet", "--annotations", "images.csv"],
            "--annotations images.csv is relative to this machine's folder",
        ),
        (
            [
                "--",
                "pseudo-label",
                "--pairs=/p.parquet",
                "--matches=/r",
                "--out=/l.parquet",
                "--export",
                "spair",
                "here",
            ],
            "--export here is relative to this machine's folder",
        ),
        (
            [
                "--address=head:1",
                "--",
                "pseudo-label",
                "--pairs=/p",
                "--matches=/r",
                "--out=/l.parquet",
                "--export=coco",
            ],
            "--address head:1: expected the address of a head's dashboard",
        ),
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


def test_a_stopped_job_ends_as_an_interruption() -> None:
    details: Any = SimpleNamespace(status=JobStatus.STOPPED, driver_exit_code=None)

    with pytest.raises(KeyboardInterrupt, match="job was stopped"):
        submit._end_as(details, "job")
