"""What one training example is: two images and the points in them that match."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from nemf.matcher import RGB, Points

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """One image of an example."""

    rgb: RGB
    xy_px: Points
    """The matching points, in pixels of this image."""
    box_xyxy: Box | None = None
    """(x_min, y_min, x_max, y_max) around the object, in pixels; None where it is not known."""

    @property
    def hw(self) -> tuple[int, int]:
        """The image's height and width."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def inside(self) -> Bool[np.ndarray, " k"]:
        """Which points lie between the centres of the image's first and last pixels."""
        last_px = np.array([self.hw[1] - 1, self.hw[0] - 1])
        return np.all((self.xy_px >= 0) & (self.xy_px <= last_px), axis=1)

    def at(self, rows: np.ndarray) -> "View":
        """With these points only."""
        return replace(self, xy_px=self.xy_px[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """Point k of the source matches point k of the target. The roles are the paper's: the target has the grid.

    Raises ValueError where the numbers of points or names differ, or points are not finite.
    """

    source: View
    target: View
    keypoint_id: tuple[str, ...] | None = None
    """What the points are called; None where nothing is known."""
    category: str = ""
    """What kind of object is seen: points of one name match in all examples of one category."""

    def __post_init__(self) -> None:
        counts = {"source points": len(self), "target points": len(self.target.xy_px)}
        if self.keypoint_id is not None:
            counts["keypoint_id"] = len(self.keypoint_id)
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(f"an example needs as many points in both images and a name for each, or none; got {told}")
        for role, view in (("source", self.source), ("target", self.target)):
            if not np.isfinite(view.xy_px).all():
                bad = int(np.flatnonzero(~np.isfinite(view.xy_px).all(axis=1))[0])
                raise ValueError(f"points must be finite; {role} point {bad} is {tuple(view.xy_px[bad].tolist())}")

    def __len__(self) -> int:
        return len(self.source.xy_px)

    def inside(self) -> "Example":
        """Without the points that lie outside either image."""
        rows = np.flatnonzero(self.source.inside() & self.target.inside())
        names = None if self.keypoint_id is None else tuple(self.keypoint_id[row] for row in rows)
        return replace(self, source=self.source.at(rows), target=self.target.at(rows), keypoint_id=names)

    def swapped(self) -> "Example":
        """The other way round."""
        return replace(self, source=self.target, target=self.source)
