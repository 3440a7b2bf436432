"""One training example: two images and the points in them that match.

A search would start at the points of the query and look for them in the reference. In the paper the query image is the
*target* and the reference image the *source*.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

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

    Raises ValueError where the numbers of points or names differ, or points are not finite.
    """

    reference: View
    query: View
    keypoint_id: tuple[str, ...] | None = None
    """Names of the points; None where they have none."""
    category: str = ""
    """Category of the object: points of one name match in all examples of one category."""

    def __post_init__(self) -> None:
        counts = {"reference points": len(self), "query points": len(self.query.xy_px)}
        if self.keypoint_id is not None:
            counts["keypoint_id"] = len(self.keypoint_id)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(
                f"an example needs as many points in both images and a name for each, or none; got {listed}"
            )
        for role, view in (("reference", self.reference), ("query", self.query)):
            if not np.isfinite(view.xy_px).all():
                bad = int(np.flatnonzero(~np.isfinite(view.xy_px).all(axis=1))[0])
                raise ValueError(f"points must be finite; {role} point {bad} is {tuple(view.xy_px[bad].tolist())}")

    def __len__(self) -> int:
        return len(self.reference.xy_px)

    def drop_outside_points(self) -> "Example":
        """The example without the points that lie outside either image."""
        rows = np.flatnonzero(self.reference.inside_mask() & self.query.inside_mask())
        names = None if self.keypoint_id is None else tuple(self.keypoint_id[row] for row in rows)
        return replace(
            self,
            reference=self.reference.select_points(rows),
            query=self.query.select_points(rows),
            keypoint_id=names,
        )

    def swapped(self) -> "Example":
        """The example with reference and query exchanged."""
        return replace(self, reference=self.query, query=self.reference)
