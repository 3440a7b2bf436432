"""Matching on this machine without Ray: slices over processes, as many as there is work and room for.

The processes are apart from the driver's, since a pair may kill one: then another is started, and what it was at is
matched pair by pair, alone in its process, until the pair at fault is found, which the quarantine leaves out; the rest
is matched together again, unless a process dies of that too. Copies of the first process cost next to nothing and are
all there from the start; where it cannot be copied, more are started as the work turns out to be worth them.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait

from tqdm import tqdm

from nemf.io.redact import redacted
from pipeline.cluster.errors import ClusterError
from pipeline.cluster.this_machine import free_memory, usable_cores
from pipeline.matching.local_process import MatcherProcess
from pipeline.matching.local_worker import MatcherFacts, SliceDone
from pipeline.matching.options import MATCH_MEMORY
from pipeline.matching.plan import Slice
from pipeline.matching.stages import Committed, StageConfig
from pipeline.runs.quarantine import DEATHS

SECONDS_A_PROCESS = 10.0
"""Work left, in seconds at the present pace, for which one more process is started that is no copy: it takes about half
of them to import and load what it needs."""
_SLICES_AHEAD = 1
"""Slices given to a process beyond the one that it matches: their images are decoded meanwhile."""
_LEAST_PAIRS = 8
"""Pairs of the first slice that is given, so that results come soon and the pace is known, and of the last ones, so
that all processes end at about the same time; for fewer there is no copy."""
_MOST_DEATHS = 2 * DEATHS + 1
"""Deaths of its processes after which a pair ends the job; the quarantine sets it aside before, be it of decoding or of
matching, and what dies all the same would do so for ever."""
_POLL_SECONDS = 0.2


def most_processes(facts: MatcherFacts, gpus_per_process: float) -> int:
    """How many processes this machine has room for: one a core as far as the memory goes, or so many as share its
    GPUs."""
    if facts.n_gpus:
        return max(1, int(facts.n_gpus / gpus_per_process))
    return max(1, min(usable_cores(), free_memory() // MATCH_MEMORY))


@dataclass
class _Given:
    """A slice that a process has."""

    work: Slice
    is_alone: bool
    """Whether it is one pair, which a process had when it died; nothing else may be with the process meanwhile."""
    others: Slice | None = None
    """The pairs that the process had beside this one and that come next; None for none."""
    is_rest: bool = False
    """Whether a pair at fault was found in its slice before."""
    n_deaths: int = 0
    """Processes that died when they had this pair alone."""
    n_committed: int = 0
    """Rows of the slice in committed parts."""


@dataclass
class _Member:
    """A process, and the slices that it has, in the order in which it does them."""

    process: MatcherProcess
    is_ready: bool = False
    """Whether its matcher is loaded and it was told the stages."""
    given: deque[_Given] = field(default_factory=deque)


class LocalMatching:
    """Slices that are matched by processes of this machine; `close` ends those that it starts.

    process: the first one, which the caller ends. most: the largest number of processes.
    on_death: called with how a process ended, such as 'signal 9', and the number of pairs that it had.
    Raises what loading the matcher raises, see MatcherProcess.facts.
    """

    def __init__(
        self,
        process: MatcherProcess,
        slices: list[Slice],
        config: StageConfig,
        *,
        most: int,
        on_death: Callable[[str, int], None] = lambda _ending, _n_pairs: None,
    ) -> None:
        self._first = process
        self._config = config
        self._on_death = on_death
        self._most = most
        self._waiting = deque(slices)
        self._n_waiting = sum(len(work.rows) for work in slices)
        self._is_begun = False
        self._suspects: deque[_Given] = deque()
        self._n_done = 0
        self._facts = process.facts()
        processes = [process]
        if self._facts.can_be_copied:
            n_copies = max(1, min(most, self._n_waiting // _LEAST_PAIRS))
            processes = [process.another() for _ in range(n_copies)]
        self._members = [_Member(each) for each in processes]
        for member in self._members[:]:
            self._welcome_if_loaded(member)
        self._start = time.monotonic()

    def parts(self, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[Committed]:
        """The parts as they are committed; once `is_stopped()`, those of what is begun.

        Raises what the stages raise, and ClusterError where no process can be started again, or where each dies of the
        same pair.
        """
        while True:
            if is_stopped():
                self._waiting.clear()
                self._n_waiting = 0
                self._suspects.clear()
            self._give()
            self._start_more()
            if not any(member.given for member in self._members) and not self._suspects and not self._waiting:
                return
            readable = wait([member.process.connection for member in self._members], _POLL_SECONDS)
            for member in [member for member in self._members if member.process.connection in readable]:
                part = self._received(member)
                if part is not None:
                    yield part

    def _received(self, member: _Member) -> Committed | None:
        """What a process has to say; a part if that is it."""
        if not member.is_ready:
            self._welcome(member)
            return None
        try:
            message: SliceDone | Committed = member.process.receive()
        except EOFError:
            self._replace(member)
            return None
        if isinstance(message, SliceDone):
            done = member.given.popleft()
            if done.others is not None:
                self._suspects.appendleft(_first_alone(done.others, is_rest=done.is_rest))
            return None
        n_rows = sum(message["reasons"].values())
        member.given[0].n_committed += n_rows
        self._n_done += n_rows
        return message

    def _give(self) -> None:
        """Give the processes what they may have beside the work that they have, first of all those that have none."""
        for n_given in range(1 + _SLICES_AHEAD):
            for member in self._members:
                if member.is_ready and len(member.given) == n_given:
                    self._give_one(member)

    def _give_one(self, member: _Member) -> None:
        is_suspect = bool(self._suspects)
        if member.given and (is_suspect or member.given[0].is_alone):
            return
        if is_suspect or self._waiting:
            given = self._suspects.popleft() if is_suspect else _Given(self._next_slice(), is_alone=False)
            member.given.append(given)
            member.process.send(given.work)

    def _next_slice(self) -> Slice:
        """The first waiting slice, or so much of it that enough is left for the other processes."""
        n_pairs = max(_LEAST_PAIRS, math.ceil(self._n_waiting / (2 * self._most))) if self._is_begun else _LEAST_PAIRS
        self._is_begun = True
        work = self._waiting.popleft()
        if len(work.rows) > n_pairs:
            self._waiting.appendleft(replace(work, rows=work.rows[n_pairs:]))
            work = replace(work, rows=work.rows[:n_pairs])
        self._n_waiting -= len(work.rows)
        return work

    def _start_more(self) -> None:
        """Start more processes if what waits would keep the present ones busy for long."""
        if not self._n_done or not all(member.is_ready for member in self._members):
            return
        rows_a_second = self._n_done / (time.monotonic() - self._start)
        n_rows = self._n_waiting * len(self._config.matching.options.directions)
        worth = math.floor(n_rows / rows_a_second / SECONDS_A_PROCESS)
        for _ in range(min(worth, self._most - len(self._members))):
            # of the first one, since a process that matches cannot be copied
            member = _Member(self._first.another(self._device(len(self._members))))
            self._members.append(member)
            self._welcome_if_loaded(member)

    def _device(self, number: int) -> str | None:
        """The device of a process: the GPUs in turn."""
        if not self._facts.n_gpus:
            return None
        return f"cuda:{int(number * self._config.matching.gpus_per_worker)}"

    def _welcome_if_loaded(self, member: _Member) -> None:
        if member.process.is_loaded(0):
            self._welcome(member)

    def _welcome(self, member: _Member) -> None:
        """Have a process that is loaded take part; where it could not be loaded, the others go on without it."""
        try:
            member.process.facts()
        except (ClusterError, ValueError, OSError) as error:
            if len(self._members) == 1:
                raise
            _note(f"going on with one process less: {error}")
            self._members.remove(member)
            self._most = len(self._members)
            member.process.close()
        else:
            member.process.send(self._config)
            member.is_ready = True

    def _replace(self, member: _Member) -> None:
        """After the death of a process: what it was at becomes pairs to match alone, the rest waits again."""
        ending = member.process.ending()
        n_pairs = sum(len(given.work.rows) for given in member.given)
        self._on_death(ending, n_pairs)
        while len(member.given) > 1:
            work = member.given.pop().work
            self._waiting.appendleft(work)
            self._n_waiting += len(work.rows)
        if member.given:
            suspects = list(self._suspects_of(member.given.pop(), ending))
            self._suspects.extendleft(reversed(suspects))
        member.process.close()
        replacement = _Member(member.process.another())
        self._members[self._members.index(member)] = replacement
        self._welcome_if_loaded(replacement)

    def _suspects_of(self, given: _Given, ending: str) -> Iterator[_Given]:
        """What is to be matched of what a process had when it died: pair by pair, or, where it was one pair, that one
        again and then the others."""
        rows = given.work.rows[given.n_committed // len(self._config.matching.options.directions) :]
        left = replace(given.work, rows=rows)
        if not len(rows):
            _note(f"a process died ({ending}) when its pairs were done")
        elif not given.is_alone:
            _note(f"a process died ({ending}): {len(rows)} pairs that it had are tried one by one in another")
            yield _first_alone(left, is_rest=given.is_rest)
        else:
            if given.n_deaths + 1 >= _MOST_DEATHS:
                raise ClusterError(f"{given.n_deaths + 1} processes died at the same pair, the last by {ending}")
            _note(f"a process died ({ending}) at a single pair, which is tried again")
            yield _Given(left, is_alone=True, n_deaths=given.n_deaths + 1)
        if given.others is not None:
            alone = _first_alone(given.others, is_rest=True)
            yield alone if given.is_rest else _Given(given.others, is_alone=False, is_rest=True)

    def close(self) -> None:
        """End the processes. Later calls change nothing."""
        for member in self._members:
            member.process.close()


def _first_alone(work: Slice, *, is_rest: bool) -> _Given:
    """The first pair of a slice alone, the others after it."""
    others = replace(work, rows=work.rows[1:]) if len(work.rows) > 1 else None
    return _Given(replace(work, rows=work.rows[:1]), is_alone=True, others=others, is_rest=is_rest)


def _note(text: str) -> None:
    """Tell people, beside the progress bar."""
    tqdm.write(f"note: {redacted(text)}", file=sys.stderr)
