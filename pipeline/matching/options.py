"""The options of matching."""

from dataclasses import dataclass

OUTPUTS = ("keypoints", "flow", "confidence", "cycle")
"""What a run may store: the reference points, the dense flow, the confidence of either, and the cycle error: how far,
in pixels, a point is from itself after it was matched there and back (which doubles the work)."""


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """How pairs are matched. All but batch_pairs shapes the result."""

    directions: tuple[str, ...] = ("source_to_target",)
    outputs: tuple[str, ...] = ("keypoints", "confidence")
    batch_pairs: int = 128
    """Pairs given to the matcher at once."""
