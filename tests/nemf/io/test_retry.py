import math

import pytest

from nemf.io import retry as retry_module
from nemf.io.retry import TRIES, retry, wait_seconds


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait, recorded without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(retry_module.time, "sleep", waited.append)
    return waited


def test_what_may_pass_is_asked_again_after_longer_and_longer_waits(waits: list[float]) -> None:
    answers = iter([ConnectionResetError(), TimeoutError(), "here"])

    def operation() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry("s3://b/a", operation, until=math.inf) == "here"

    assert waits == [wait_seconds("s3://b/a", 0), wait_seconds("s3://b/a", 1)]


@pytest.mark.parametrize(("error", "tries"), [(ConnectionRefusedError, TRIES), (PermissionError, 1), (LookupError, 1)])
def test_what_does_not_pass_is_raised(waits: list[float], error: type[Exception], tries: int) -> None:
    calls = []

    def operation() -> None:
        calls.append(1)
        raise error

    with pytest.raises(error):
        retry("s3://b/a", operation, until=math.inf)

    assert (len(calls), len(waits)) == (tries, tries - 1)


def test_nothing_is_asked_when_time_is_up(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_module.time, "monotonic", lambda: 100.0)

    def operation() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        retry("s3://b/a", operation, until=100.0 + wait_seconds("s3://b/a", 0))

    assert waits == []


def test_waits_differ_between_files_and_not_between_runs() -> None:
    assert wait_seconds("s3://b/a", 3) == wait_seconds("s3://b/a", 3) != wait_seconds("s3://b/b", 3)
    for number in range(TRIES):
        assert 0.5 <= wait_seconds("s3://b/a", number) / (retry_module.FIRST_WAIT_SECONDS * 2**number) < 1.5
