"""What a run may be asked for."""

from dataclasses import dataclass

OUTPUTS = ("keypoints", "flow", "confidence", "cycle")
"""What a run may store: the points' places, the dense flow, how sure of either, and how far a point lands from itself
when its answer is matched back (as much work again)."""


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """How a run matches; all but batch_pairs shapes the result."""

    directions: tuple[str, ...] = ("source_to_target",)
    outputs: tuple[str, ...] = ("keypoints", "confidence")
    batch_pairs: int = 128
    """Pairs given to the matcher at once."""
