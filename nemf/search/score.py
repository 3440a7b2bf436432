"""What the search maximises."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class ScoreFn(Protocol):
    """How well each source point suits its target point: a logit, the greater the better.

    For each point by itself: its logit may depend neither on the other points of the call nor on their number. The
    coordinate optimisation needs it to be differentiable in the source points.
    """

    def __call__(
        self, source_xy_norm: Float[Tensor, "b n 2"], target_xy_norm: Float[Tensor, "b n 2"]
    ) -> Float[Tensor, "b n"]:
        """Logits of b pairs of images with n pairs of points each."""
        ...


@runtime_checkable
class TargetScoreFn(Protocol):
    """A ScoreFn whose target points are known beforehand, and called by number."""

    def __call__(self, source_xy_norm: Float[Tensor, "n 2"], target: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Logits of source points, each at the target point of that number."""
        ...


@runtime_checkable
class BoundScoreFn(Protocol):
    """A ScoreFn whose target points are given: `functools.partial(score, target_xy_norm=target_xy_norm)`."""

    def __call__(self, source_xy_norm: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n"]:
        """Logits of source points, one for each of the target points."""
        ...
