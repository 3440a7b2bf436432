"""The process that matches on this machine without Ray: what pipeline.matching.local_process starts and talks to.

It receives Setup, loads the matcher and answers MatcherFacts; then it receives a StageConfig and any number of slices,
and answers each slice with its Committed parts as they are written and SliceDone at the end. An exception that it
answers instead is the end of the job. It ends with the process that started it, whatever it is at, and leaves signals
to that one: batch systems send SIGTERM to all processes of a job, of which the driver lets these finish what they have.
"""

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
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


@dataclass(frozen=True)
class SliceDone:
    """Nothing of the slice is left to do."""


def main(file_descriptor: int) -> None:
    """Serve the connection of that descriptor until its other end is closed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(file_descriptor)
    received: Queue[Any] = Queue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    setup: Setup = received.get()
    fsspec.config.conf.update(setup.storage_options)
    try:
        device = _resolved(setup.device)
        matcher = load(setup.matching, device)
        facts = _facts(matcher, setup.matching, _n_gpus(device))
    except (ValueError, OSError) as error:
        _send(connection, _sendable(error))
        return
    _send(connection, facts)
    config: StageConfig = received.get()
    try:
        _match_all(connection, received, config, matcher)
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


def _receive(connection: Connection, received: Queue[Any]) -> None:
    """Put the messages that come into a queue; ends this process where the other one has ended."""
    while True:
        try:
            received.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)


def _send(connection: Connection, message: MatcherFacts | Committed | SliceDone | Exception) -> None:
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


def _facts(matcher: "Matcher", matching: MatchConfig, n_gpus: int) -> MatcherFacts:
    from nemf.matcher import salience_of, squashed_side_of

    is_asked = matching.options.points.kind == "salient"
    return MatcherFacts(
        fingerprint=matcher.fingerprint,
        squashed_side=squashed_side_of(matcher),
        has_salience=salience_of(matcher, np.zeros((32, 32, 3), np.uint8)) is not None if is_asked else None,
        n_gpus=n_gpus,
    )


def _sendable(error: Exception) -> Exception:
    """The error as the other process can have it, where its type may not be copied: of the nearest built-in type."""
    for kind in (ValueError, OSError):
        if isinstance(error, kind):
            return error if type(error).__module__ == "builtins" else kind(str(error))
    return ClusterError(f"a worker failed: {type(error).__name__}: {error}")
