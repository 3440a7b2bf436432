"""One training example: two images and the points in them that match.

A search would start at the points of the query and look for them in the reference. In the paper the query image is the
*target* and the reference image the *source*.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from nemf.matcher import RGB, Points

Box = tuple[float, float, float, float]
"""(x_min, y_min, x_max, y_max) in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """One image of an example with its points."""

    rgb: RGB
    xy_px: Points
    """The matching points, in pixels of this image."""
    box_xyxy: Box | None = None
    """Bounding box of the object; None where it is not known."""

    @property
    def hw(self) -> tuple[int, int]:
        """The image's height and width."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def inside_mask(self) -> Bool[np.ndarray, " k"]:
        """True for points between the centres of the image's first and last pixels."""
        last_px = np.array([self.hw[1] - 1, self.hw[0] - 1])
        return np.all((self.xy_px >= 0) & (self.xy_px <= last_px), axis=1)

    def select_points(self, rows: np.ndarray) -> "View":
        """The view with the points of these row numbers only, in this order."""
        return replace(self, xy_px=self.xy_px[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """Point k of the reference matches point k of the query.

    Raises ValueError where the numbers of points, names or probabilities differ, points are not finite, or a
    probability is out of range.
    """

    reference: View
    query: View
    keypoint_id: tuple[str, ...] | None = None
    """Names of the points; None where they have none."""
    probability: Float32[np.ndarray, " k"] | None = None
    """The probability of each match to be right, above 0 and at most 1; None where all are certain."""
    category: str = ""
    """Category of the object: points of one name match in all examples of one category."""

    def __post_init__(self) -> None:
        counts = {"reference points": len(self), "query points": len(self.query.xy_px)}
        if self.keypoint_id is not None:
            counts["keypoint_id"] = len(self.keypoint_id)
        if self.probability is not None:
            counts["probabilities"] = len(self.probability)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(
                "an example needs as many points in both images, and a name and a probability for each, or none; "
                f"got {listed}"
            )
        if self.probability is not None and not ((self.probability > 0) & (self.probability <= 1)).all():
            raise ValueError(f"probabilities must be above 0 and at most 1; got {self.probability.tolist()}")
        for role, view in (("reference", self.reference), ("query", self.query)):
            if not np.isfinite(view.xy_px).all():
                bad = int(np.flatnonzero(~np.isfinite(view.xy_px).all(axis=1))[0])
                raise ValueError(f"points must be finite; {role} point {bad} is {tuple(view.xy_px[bad].tolist())}")

    def __len__(self) -> int:
        return len(self.reference.xy_px)

    def drop_outside_points(self) -> "Example":
        """The example without the points that lie outside either image."""
        rows = np.flatnonzero(self.reference.inside_mask() & self.query.inside_mask())
        return replace(
            self,
            reference=self.reference.select_points(rows),
            query=self.query.select_points(rows),
            **self._of_points(rows),
        )

    def _of_points(self, rows: np.ndarray) -> dict[str, Any]:
        """The names and probabilities of the points of these row numbers, as fields of an example."""
        names, probability = self.keypoint_id, self.probability
        return {
            "keypoint_id": None if names is None else tuple(names[row] for row in rows),
            "probability": None if probability is None else probability[rows],
        }

    def swapped(self) -> "Example":
        """The example with reference and query exchanged."""
        return replace(self, reference=self.query, query=self.reference)
