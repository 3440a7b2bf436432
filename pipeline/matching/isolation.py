"""Asking a matcher, which may be anybody's: every question ends with an answer or with the reason why it has none."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemf.matcher import ImagePair, Match, Matcher
from pipeline.matching.predictions import BadAnswerError

_NOTHING = object()


@dataclass(kw_only=True, eq=False)
class Question:
    """One pair, and what became of it."""

    pair: ImagePair
    columns: dict[str, Any] = field(default_factory=dict)
    """What was made of the answers."""
    error: tuple[str, str] | None = None
    """Why there is no answer, as kind and message; `columns` do not count then."""
    milliseconds: float = 0.0


def ask(
    matcher: Matcher,
    questions: Sequence[Question],
    columns: Callable[[Question, Match], dict[str, Any]],
    on_answer: Callable[[], None],
) -> None:
    """Complete the questions.

    columns: what an answer adds to its question's columns; what it raises is the question's error.
    on_answer: called with every answer that came.
    Where the matcher raises, the answers it gave stay and the rest is asked again in halves: a batch that memory does
    not hold is halved until it does, and a pair that cannot be matched ends alone. The same where it answered fewer or
    more pairs than it was asked, but then no answer stays.
    """
    start, n_answered = time.perf_counter(), 0
    try:
        for question, match in zip(questions, _one_each(matcher, questions), strict=True):
            on_answer()
            n_answered += 1
            try:
                question.columns |= columns(question, match)
                question.error = None
            except Exception as error:  # an answer may be anything
                question.error = _described(error)
        return
    except Exception as error:  # a matcher may raise anything
        n_answered = 0 if isinstance(error, BadAnswerError) else n_answered
        reason = _described(error)
    finally:
        for question in questions:
            question.milliseconds += (time.perf_counter() - start) * 1000 / len(questions)
    if len(questions) == 1:
        questions[0].error = reason
        return
    left = questions[n_answered:]
    middle = (len(left) + 1) // 2
    for half in (left[:middle], left[middle:]):
        if half:
            ask(matcher, half, columns, on_answer)


def _described(error: Exception) -> tuple[str, str]:
    """Kind and message."""
    kind = error.kind if isinstance(error, BadAnswerError) else type(error).__name__
    return kind, " ".join(str(error).split())[:500]


def _one_each(matcher: Matcher, questions: Sequence[Question]) -> Iterator[Match]:
    answers = iter(matcher.match_batch([question.pair for question in questions]))
    for number in range(len(questions)):
        match: Any = next(answers, _NOTHING)
        if match is _NOTHING:
            raise BadAnswerError("bad_answer", f"match_batch answered {number} of {len(questions)} pairs")
        yield match
    if next(answers, _NOTHING) is not _NOTHING:
        raise BadAnswerError("bad_answer", f"match_batch answered more than the {len(questions)} pairs it was asked")
