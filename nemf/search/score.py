"""The scores that a search maximises: functions from pairs of points to logits."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class ScoreFn(Protocol):
    """A score of how well each reference point matches its query point: a logit, the greater the better.

    A point's logit may depend neither on the other points of the call nor on their number. The coordinate optimisation
    differentiates it by the reference points.
    """

    def __call__(
        self, reference_xy_norm: Float[Tensor, "b n 2"], query_xy_norm: Float[Tensor, "b n 2"], /
    ) -> Float[Tensor, "b n"]:
        """Logits of b pairs of images with n pairs of points each."""
        ...


@runtime_checkable
class IndexedScoreFn(Protocol):
    """A ScoreFn that holds its query points, one list for all pairs of images, and takes their indices."""

    def __call__(
        self, reference_xy_norm: Float[Tensor, "n 2"], query_index: Int64[Tensor, " n"], /
    ) -> Float[Tensor, " n"]:
        """Logits of n reference points, each at the query point of that index."""
        ...


@runtime_checkable
class BoundScoreFn(Protocol):
    """A ScoreFn whose query points are fixed, such as `functools.partial(model.score, encoded, target_xy_norm=...)`."""

    def __call__(self, reference_xy_norm: Float[Tensor, "b n 2"], /) -> Float[Tensor, "b n"]:
        """Logits of b x n reference points, one for each of the query points."""
        ...
