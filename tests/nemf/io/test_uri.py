import itertools
from types import SimpleNamespace

import pytest

from nemf.io import uri


def test_a_store_whose_library_waits_by_itself_is_not_asked_seven_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(start=0.0, step=uri.RETRY_SECONDS / 2)  # what a try takes
    clock = SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _seconds: None)
    monkeypatch.setattr(uri, "time", clock)
    monkeypatch.setattr("nemf.io.retry.time", clock)
    calls = []

    def operation(_fs: object, path: str) -> None:
        calls.append(path)
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError, match="memory://there"):
        uri.with_retries("memory://there", operation)

    assert len(calls) == 2
