"""The process that matches on this machine without Ray: what pipeline.matching.local_process starts and talks to.

It receives Setup, loads the matcher and answers MatcherFacts. Then it is copied, any number of times, by Copy; or it
receives a StageConfig and any number of slices, as its copies do, and answers each slice with its Committed parts as
they are written and SliceDone at the end. An exception that it answers instead is the end of the job. It ends with the
process that started it, whatever it is at, and leaves signals to that one: batch systems send SIGTERM to all processes
of a job, of which the driver lets these finish what they have.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np

from pipeline.cluster.errors import ClusterError
from pipeline.matching.decode import Chunk
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Slice
from pipeline.matching.stages import Committed, MatchStage, StageConfig, commit, decode_slice, load

if TYPE_CHECKING:
    from nemf.matcher import Matcher


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the process needs to load the matcher."""

    matching: MatchConfig
    device: str
    """cpu, cuda, cuda:N, or auto for a GPU where there is one."""
    storage_options: Mapping[str, Mapping[str, Any]]
    """fsspec's configuration, which may hold secrets: it travels through the connection only."""


@dataclass(frozen=True, kw_only=True)
class MatcherFacts:
    """What a job asks of its matcher before anything is matched."""

    fingerprint: str
    squashed_side: int | None
    """See nemf.matcher.Matcher.squashed_side."""
    has_salience: bool | None
    """Whether it can choose points by salience; None where the job does not need it."""
    n_gpus: int
    """GPUs of this machine, where it is on one of them; else 0."""
    can_be_copied: bool = False
    """Whether the process that holds it can be copied: a copy has none of the threads of its original, nor its GPU."""


@dataclass(frozen=True)
class Copy:
    """A request for a copy of the process, which serves the connection whose descriptor follows; it is answered with
    the copy's process id."""


@dataclass(frozen=True)
class WaitFor:
    """A request for the exit code of a copy, negative for a signal, once it has ended; what its matcher began ends
    then."""

    pid: int


@dataclass(frozen=True)
class SliceDone:
    """Nothing of the slice is left to do."""


def main(file_descriptor: int) -> None:
    """Serve the connection of that descriptor until its other end is closed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it, be it what started the job, hears of no end
    connection = _connection(file_descriptor)
    received = _received(connection)
    setup: Setup = received.get()
    fsspec.config.conf.update(setup.storage_options)
    n_threads = _n_threads()
    try:
        device = _resolved(setup.device)
        matcher = load(setup.matching, device)
        can_be_copied = device == "cpu" and sys.platform == "linux" and _n_threads() == n_threads
        facts = _facts(matcher, setup.matching, _n_gpus(device), can_be_copied=can_be_copied)
    except (ValueError, OSError) as error:
        _send(connection, _sendable(error))
        return
    _send(connection, facts)
    _serve(connection, received, matcher)


def _serve(connection: Connection, received: Queue[Any], matcher: "Matcher") -> None:
    """Be copied, then match; a copy goes on here too, with its own connection."""
    while not isinstance(message := received.get(), StageConfig):
        if isinstance(message, WaitFor):
            os.waitid(os.P_PID, message.pid, os.WEXITED | os.WNOWAIT)
            with suppress(OSError):
                os.killpg(message.pid, signal.SIGKILL)  # what its matcher began; as yet the id is of no other process
            _, status = os.waitpid(message.pid, 0)
            _send(connection, os.waitstatus_to_exitcode(status))
            continue
        descriptor: int = received.get()
        pid = os.fork()
        if pid:
            os.setpgid(pid, pid)
            os.close(descriptor)
            _send(connection, pid)
        else:
            connection = _connection(descriptor)
            received = _received(connection)
    try:
        _match_all(connection, received, message, matcher)
    except Exception as error:
        _send(connection, _sendable(error))


def _match_all(connection: Connection, received: Queue[Any], config: StageConfig, matcher: "Matcher") -> None:
    """Match and commit the slices that come, until there is an error."""
    stage = MatchStage(config, matcher)
    decoded: Queue[Chunk | SliceDone | Exception] = Queue(maxsize=1)
    threading.Thread(target=_decode, args=(received, config, decoded), daemon=True).start()
    while True:
        item = decoded.get()
        if isinstance(item, Exception):
            raise item
        if isinstance(item, Chunk):
            rows = stage.match(item)
            if rows.num_rows:
                _send(connection, commit(rows, config))
        else:
            _send(connection, item)


def _decode(received: Queue[Any], config: StageConfig, decoded: "Queue[Chunk | SliceDone | Exception]") -> None:
    """Decode the slices that come, one chunk ahead of what is matched."""
    while True:
        work: Slice = received.get()
        try:
            chunks = decode_slice(work, config)
            # the claim on decoding a single pair is closed before the pair is matched: a death then is of one stage
            for chunk in list(chunks) if len(work.rows) == 1 else chunks:
                decoded.put(chunk)
            decoded.put(SliceDone())
        except Exception as error:
            decoded.put(error)


def _connection(file_descriptor: int) -> Connection:
    """The connection of that descriptor, which this process alone has: its end tells the other one of this one's end,
    whatever processes the matcher began."""
    os.set_inheritable(file_descriptor, False)
    connection = Connection(file_descriptor)
    os.register_at_fork(after_in_child=connection.close)
    return connection


def _received(connection: Connection) -> Queue[Any]:
    """The messages of the connection, as they come."""
    received: Queue[Any] = Queue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    return received


def _receive(connection: Connection, received: Queue[Any]) -> None:
    """Put the messages that come into a queue; ends this process where the other one has ended."""
    while True:
        try:
            message = connection.recv()
            received.put(message)
            if isinstance(message, Copy):
                received.put(recv_handle(connection))
        except (EOFError, OSError):
            os._exit(1)


def _send(connection: Connection, message: MatcherFacts | int | Committed | SliceDone | Exception) -> None:
    """Send it; ends this process where the other one has ended."""
    try:
        connection.send(message)
    except ConnectionError:
        os._exit(1)


def _resolved(device: str) -> str:
    """Raises ValueError for cuda without a GPU."""
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda" if device == "auto" else device
    if device == "auto":
        return "cpu"
    raise ValueError("--device cuda needs a GPU and this machine has none; use --device cpu")


def _n_gpus(device: str) -> int:
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def _n_threads() -> int:
    """Threads of this process, those of libraries included; 0 where the system does not say."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return 0


def _facts(matcher: "Matcher", matching: MatchConfig, n_gpus: int, *, can_be_copied: bool) -> MatcherFacts:
    from nemf.matcher import salience_of, squashed_side_of

    is_asked = matching.options.points.kind == "salient"
    return MatcherFacts(
        fingerprint=matcher.fingerprint,
        squashed_side=squashed_side_of(matcher),
        has_salience=salience_of(matcher, np.zeros((32, 32, 3), np.uint8)) is not None if is_asked else None,
        n_gpus=n_gpus,
        can_be_copied=can_be_copied,
    )


def _sendable(error: Exception) -> Exception:
    """The error as the other process can have it, where its type may not be copied: of the nearest built-in type."""
    for kind in (ValueError, OSError):
        if isinstance(error, kind):
            return error if type(error).__module__ == "builtins" else kind(str(error))
    return ClusterError(f"a worker failed: {type(error).__name__}: {error}")
