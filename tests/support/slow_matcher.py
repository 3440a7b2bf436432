"""A matcher for tests: the identity, slowly, so that there is time to kill it.

It fails on pairs whose id has 'bad' in it, and its process dies on those with 'deadly'.
"""

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from nemf.matcher import ImagePair, Match
from nemf.matchers.identity import IdentityMatcher


class SlowMatcher(IdentityMatcher):
    """Waits SLOW_MATCHER_SECONDS a pair."""

    def __init__(self, **_options: Any) -> None:
        super().__init__()
        self.name = "slow"
        self.fingerprint = "slow-" + os.environ.get("SLOW_MATCHER_VERSION", "1")

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        """As the identity."""
        for pair in pairs:
            time.sleep(float(os.environ.get("SLOW_MATCHER_SECONDS", "0")))
            if "bad" in pair.pair_id:
                raise ArithmeticError("this pair cannot be matched")
            if "deadly" in pair.pair_id:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().match_batch(pairs)
