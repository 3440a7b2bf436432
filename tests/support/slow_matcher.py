"""A matcher for tests, slowly, so that there is time to kill it.

It fails on pairs whose id has 'bad' in it, its process dies on those with 'deadly' and hangs on those with 'stuck'.
"""

import os
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nemf.matcher import ImagePair, Match, Matcher
from pipeline.matching import decode


class SlowMatcher(Matcher):
    """Answers that any byte of a pair's images, points and identity changes, after SLOW_MATCHER_SECONDS a pair.

    They are random numbers, not features: what a feature extractor imports would be most of the time of every process.
    """

    def __init__(self, **_options: Any) -> None:
        self.name = "slow"
        self.fingerprint = "slow"

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterable[Match]:
        for pair in pairs:
            time.sleep(float(os.environ.get("SLOW_MATCHER_SECONDS", "0")))
            if "bad" in pair.pair_id:
                raise ArithmeticError("this pair cannot be matched")
            if "deadly" in pair.pair_id:
                os.kill(os.getpid(), signal.SIGKILL)
            if "stuck" in pair.pair_id:
                time.sleep(3600)
        return (_answer(pair) for pair in pairs)


def dies(**_options: Any) -> SlowMatcher:
    """Loading it kills the process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def changing(**_options: Any) -> SlowMatcher:
    """A SlowMatcher that is another one in every process."""
    matcher = SlowMatcher()
    matcher.fingerprint = str(os.getpid())
    return matcher


def with_a_thread(**_options: Any) -> SlowMatcher:
    """A SlowMatcher that begins a thread, as the sessions of some libraries do: its process cannot be copied."""
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return SlowMatcher()


class WithHelpers(SlowMatcher):
    """A SlowMatcher that begins processes as it matches, which outlive it."""

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterable[Match]:
        if not os.fork():
            time.sleep(3600)
        subprocess.Popen(["sleep", "3600"], close_fds=False)
        return super().match_batch(pairs)


def with_helpers_and_a_thread(**_options: Any) -> SlowMatcher:
    """WithHelpers whose process cannot be copied."""
    with_a_thread()
    return WithHelpers()


def with_deadly_images(**_options: Any) -> SlowMatcher:
    """A SlowMatcher in whose process fetching an image with 'deadly' in its name is the end of it."""
    fetch = decode.fetch_image

    def fetch_or_die(uri: str, **options: Any) -> bytes:
        if "deadly" in uri:
            os.kill(os.getpid(), signal.SIGKILL)
        return fetch(uri, **options)

    decode.fetch_image = fetch_or_die
    return SlowMatcher()


def _answer(pair: ImagePair) -> Match:
    points = pair.points_inside_px()
    content = (pair.query_rgb, pair.reference_rgb, points)
    rng = np.random.default_rng([zlib.crc32(data.tobytes()) for data in content] + [zlib.crc32(pair.pair_id.encode())])
    height, width = pair.reference_hw
    return Match(
        reference_xy_px=rng.random((len(points), 2), np.float32) * np.array([width, height], np.float32),
        point_confidence=rng.random(len(points), np.float32),
        flow_px=rng.random((*pair.query_hw, 2), np.float32) if pair.dense else None,
        flow_confidence=rng.random(pair.query_hw, np.float32) if pair.dense else None,
    )
