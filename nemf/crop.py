"""Rectangles of whole pixels cut out of images, and where points are in them."""

from dataclasses import dataclass

import numpy as np

from nemf.matcher import RGB, Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The pixels x0 to x1 - 1, y0 to y1 - 1 of an image of size `image_hw`; one pixel or more, all in the image."""

    x0: int
    y0: int
    x1: int
    y1: int
    image_hw: tuple[int, int]

    @classmethod
    def around(cls, low_xy: np.ndarray, high_xy: np.ndarray, image_hw: tuple[int, int], margin_px: float = 0) -> "Crop":
        """The smallest crop with every pixel whose centre is in low_xy..high_xy widened by margin_px, and their
        neighbours where the bounds are between centres; cut off at the image's border.

        low_xy, high_xy: (x, y) in pixels of the image; they may lie outside it.
        """
        last_xy = np.array([image_hw[1] - 1, image_hw[0] - 1])
        low = np.clip(np.floor(np.asarray(low_xy, np.float64) - margin_px), 0, last_xy).astype(int)
        high = np.clip(np.ceil(np.asarray(high_xy, np.float64) + margin_px), low, last_xy).astype(int)
        return cls(x0=int(low[0]), y0=int(low[1]), x1=int(high[0]) + 1, y1=int(high[1]) + 1, image_hw=image_hw)

    @property
    def share(self) -> float:
        """The share of the image's pixels that are in it, above 0 and at most 1."""
        return (self.x1 - self.x0) * (self.y1 - self.y0) / (self.image_hw[0] * self.image_hw[1])

    def cut(self, rgb: RGB) -> RGB:
        """The pixels of the image, (y1 - y0, x1 - x0, 3); the array itself where the crop is the whole image."""
        return rgb if self.share == 1 else np.ascontiguousarray(rgb[self.y0 : self.y1, self.x0 : self.x1])

    def to_crop(self, image_xy_px: Points) -> Points:
        """Points of the image in pixels of the crop: less (x0, y0), the crop's first pixel, whose centre is (0, 0)."""
        return image_xy_px - np.array([self.x0, self.y0], np.float32)

    def to_image(self, crop_xy_px: Points) -> Points:
        """The inverse of to_crop."""
        return crop_xy_px + np.array([self.x0, self.y0], np.float32)
