"""A real matcher for tests, slowly, so that there is time to kill it.

It fails on pairs whose id has 'bad' in it, its process dies on those with 'deadly' and hangs on those with 'stuck'.
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Any

from nemf import load_matcher
from nemf.matcher import ImagePair, Match, Matcher


class SlowMatcher(Matcher):
    """The nearest neighbour on small dense SIFT, waiting SLOW_MATCHER_SECONDS a pair."""

    def __init__(self, **_options: Any) -> None:
        self._matcher = load_matcher("nearest-neighbour:dense-sift?image_size=64", device="cpu")
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
        return self._matcher.match_batch(pairs)
