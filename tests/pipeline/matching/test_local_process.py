"""A process of this machine that holds a matcher, without Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from command import SUPPORT

from pipeline.cluster.errors import ClusterError
from pipeline.matching.local_process import MatcherProcess
from pipeline.matching.options import MatchConfig, MatchOptions
from pipeline.matching.points import parse_points


@pytest.fixture(autouse=True)
def _matchers_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))


def _matching(**options: Any) -> MatchConfig:
    return MatchConfig(**{"matcher": "slow_matcher:SlowMatcher", **options})


def test_facts_of_a_matcher() -> None:
    salient = MatchOptions(points=parse_points("salient:3"))
    with MatcherProcess(_matching(options=salient), "auto") as process:
        assert (process.facts().fingerprint, process.facts().squashed_side) == ("slow", None)
        assert process.facts().has_salience is False
        assert process.facts().can_be_copied
    with MatcherProcess(_matching(matcher="nemf-small", options=salient), "cpu") as process:
        assert process.is_loaded(60)
        assert (process.facts().squashed_side, process.facts().has_salience) == (320, True)
        assert len(process.facts().fingerprint) == 16
        assert process.facts().can_be_copied


def test_a_matcher_with_threads_of_its_own_is_loaded_anew_instead_of_copied() -> None:
    """A copy would wait for them in vain."""
    with MatcherProcess(_matching(matcher="slow_matcher:with_a_thread"), "cpu") as process:
        assert not process.facts().can_be_copied
        with process.another() as other:
            assert psutil.Process(other.pid).ppid() == os.getpid()
    with MatcherProcess(_matching(), "cpu") as process:
        process.facts()
        with process.another() as first, first.another() as second:
            assert [psutil.Process(copy.pid).ppid() for copy in (first, second)] == [process.pid, process.pid]
            assert second.is_loaded(0)


def test_how_a_copy_ended_is_known_though_the_job_was_started_with_sigchld_ignored() -> None:
    """Some launchers ignore them, and what they start does so too."""
    earlier = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = MatcherProcess(_matching(), "cpu")
    finally:
        signal.signal(signal.SIGCHLD, earlier)
    with process, process.another() as copy:
        os.kill(copy.pid, signal.SIGKILL)
        assert copy.ending() == "signal 9"


@pytest.mark.parametrize(
    ("matcher", "error", "message"),
    [
        ("nothing", ValueError, "there is no matcher 'nothing'"),
        ("slow_matcher:dies", ClusterError, "the process that loads the matcher ended: signal 9"),
    ],
)
def test_a_matcher_that_cannot_be_loaded(matcher: str, error: type[Exception], message: str) -> None:
    with MatcherProcess(_matching(matcher=matcher), "cpu") as process, pytest.raises(error, match=message):
        process.facts()


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[str]]:
    """A process that starts a MatcherProcess, has it copied, says so and waits."""
    script = (
        "import time; from pipeline.matching.local_process import MatcherProcess as M; "
        "from pipeline.matching.options import MatchConfig as C\n"
        "if True:\n with M(C(matcher='slow_matcher:SlowMatcher'), 'cpu') as p:\n"
        "  p.facts(); q = p.another(); print('loaded', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])}
    started = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    yield started
    started.kill()
    started.communicate()


def test_the_process_and_its_copy_end_with_their_driver(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    assert driver.stdout.readline() == "loaded\n"
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) == 2

    driver.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 30
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
