"""Calling a matcher that may fail: every pair gets its columns of MATCHES, or a Failure of its own."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nemf.matcher import ImagePair, Match, Matcher
from pipeline.matching.predictions import InvalidMatchError
from schemas.failures import Failure

_NOTHING = object()

Columns = Callable[[ImagePair, Match], dict[str, Any]]
"""A match to its columns of MATCHES; what it raises is the failure of the pair."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchResult:
    """The columns of one matched pair, or its failure."""

    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of MATCHES; empty after a failure."""
    failure: Failure | None = None
    milliseconds: float = 0.0
    """The pair's share of all calls of the matcher it was in."""


def match_isolated(
    matcher: Matcher, pairs: Sequence[ImagePair], columns: Columns, on_prediction: Callable[[], None]
) -> list[MatchResult]:
    """One result for each pair, in order.

    on_prediction: called with every match that came.
    Where the matcher raises, the matches it gave are kept and the other pairs are matched again in halves: a batch that
    memory does not hold is halved until it does, and a pair that cannot be matched ends alone. The same where it gave
    fewer or more matches than pairs, but then none is kept.
    """
    start = time.perf_counter()
    results: list[MatchResult] = []
    failure = None
    try:
        for pair, match in zip(pairs, _one_each(matcher, pairs), strict=True):
            on_prediction()
            results.append(_result(columns, pair, match))
    except Exception as error:  # a matcher may raise anything
        failure = _failure(error)
        if isinstance(error, InvalidMatchError):
            results = []
    milliseconds = (time.perf_counter() - start) * 1000 / len(pairs)
    if failure and len(pairs) == 1:
        results = [MatchResult(failure=failure)]
    elif failure:
        rest = pairs[len(results) :]
        middle = (len(rest) + 1) // 2
        for half in (rest[:middle], rest[middle:]):
            results += match_isolated(matcher, half, columns, on_prediction) if half else []
    return [replace(result, milliseconds=result.milliseconds + milliseconds) for result in results]


def _result(columns: Columns, pair: ImagePair, match: Match) -> MatchResult:
    try:
        return MatchResult(columns=columns(pair, match))
    except Exception as error:  # a match may be anything
        return MatchResult(failure=_failure(error))


def _failure(error: Exception) -> Failure:
    kind = error.failure.kind if isinstance(error, InvalidMatchError) else type(error).__name__
    return Failure("match", kind, " ".join(str(error).split())[:500])


def _one_each(matcher: Matcher, pairs: Sequence[ImagePair]) -> Iterator[Match]:
    """The matcher's matches. Raises InvalidMatchError where there are fewer or more than pairs."""
    matches = iter(matcher.match_batch(pairs))
    for number in range(len(pairs)):
        match: Any = next(matches, _NOTHING)
        if match is _NOTHING:
            raise InvalidMatchError("bad_answer", f"match_batch returned {number} matches for {len(pairs)} pairs")
        yield match
    if next(matches, _NOTHING) is not _NOTHING:
        raise InvalidMatchError("bad_answer", f"match_batch returned more than {len(pairs)} matches")
