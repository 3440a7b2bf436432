"""Other views of an example: its images moved, cropped, mirrored and recoloured, its points following."""

import math
import re
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Generator
from torchvision.transforms.v2 import functional

from nemf.coordinates import pixel_grid
from nemf.matcher import RGB
from nemf.training.example import Box, Example, View
from nemf.training.geometry import AffineRange, resample
from nemf.training.rng import chance, uniform

_SIDE = re.compile(r"(?<![a-z])(left|right|l|r)(?![a-z])", re.IGNORECASE)
_OPPOSITE = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How far examples are changed. A probability is that of one image, drawn for each of the two."""

    swap: float = 0.5
    """Probability that source and target change roles."""
    flip: float = 0.5
    """Probability of a mirrored image. Where no keypoint's name says left or right, both are mirrored or none."""
    crop: float = 0.5
    """Probability of a crop. It keeps the box, or all points where there is none."""
    crop_least: float = 0.3
    """The least width and height of a crop, as a share of the image's."""
    jitter: float = 0.5
    """Probability of an affine map of the whole image."""
    affine: AffineRange = field(default_factory=lambda: AffineRange(rotation_deg=15.0, scale=1.2, shear=0.1, shift=0.1))
    """Where the affine maps are drawn from."""
    brightness: float = 0.4
    """Factors of brightness are drawn from 1 - this to 1 + this; likewise contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    """At most this share of the colour circle either way."""
    grey: float = 0.1
    """Probability of an image without colours."""

    def __post_init__(self) -> None:
        for name in ("swap", "flip", "crop", "crop_least", "jitter", "brightness", "contrast", "saturation", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be from 0 to 0.5; got {self.hue}")


def augment(example: Example, generator: Generator, config: AugmentConfig) -> Example:
    """The example, changed at random. Points that leave either image are gone from both.

    Where a change of place would leave no point, the images keep theirs and change their colours only.
    """
    moved = replace(
        example,
        source=_moved(example.source, generator, config),
        target=_moved(example.target, generator, config),
    )
    flips = [chance(generator, config.flip) for _ in range(2)]
    moved = flipped(moved, source=flips[0], target=flips[1]).inside()
    if chance(generator, config.swap):
        moved, example = moved.swapped(), example.swapped()
    kept = moved if len(moved) else example.inside()
    return replace(
        kept,
        source=replace(kept.source, rgb=recoloured(kept.source.rgb, generator, config)),
        target=replace(kept.target, rgb=recoloured(kept.target.rgb, generator, config)),
    )


def altered(rgb: RGB, generator: Generator, config: AugmentConfig) -> RGB:
    """One image without points, changed at random in the same ways."""
    view = View(rgb=rgb, xy_px=np.zeros((0, 2), np.float32))
    if chance(generator, config.jitter):
        view = jittered(view, generator, config.affine)
    if chance(generator, config.crop):
        view = crop_around_box(replace(view, box_xyxy=_anywhere(view.hw, generator)), generator, config.crop_least)
    if chance(generator, config.flip):
        view = mirrored(view)
    return recoloured(view.rgb, generator, config)


def flipped(example: Example, *, source: bool, target: bool) -> Example:
    """With the source, the target or both mirrored.

    A mirrored left eye looks like a right eye, so names change sides with their image, and where one image is mirrored
    the points are matched anew by name: those without counterpart are dropped. Where names do not say which side they
    are on, the target is mirrored if the source is.
    """
    names = example.keypoint_id
    speaking = names is not None and len(set(names)) == len(names) and any(opposite(name) != name for name in names)
    if not speaking:
        target = source
    views = (
        mirrored(example.source) if source else example.source,
        mirrored(example.target) if target else example.target,
    )
    if names is None or not speaking:
        # what such a name means on a mirrored image may be the other side of what it means elsewhere
        category = f"{example.category} mirrored" if source else example.category
        return replace(example, source=views[0], target=views[1], category=category)
    source_names, target_names = ([opposite(name) if flip else name for name in names] for flip in (source, target))
    row_of = {name: row for row, name in enumerate(target_names)}
    rows = [row for row, name in enumerate(source_names) if name in row_of]
    kept = tuple(source_names[row] for row in rows)
    target_rows = np.array([row_of[name] for name in kept], int)
    return replace(example, source=views[0].at(np.array(rows, int)), target=views[1].at(target_rows), keypoint_id=kept)


def opposite(name: str) -> str:
    """The name of the keypoint on the other side: left_ear for right_ear, R_Eye for L_Eye, nose for nose."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        swapped = _OPPOSITE[word.lower()]
        return swapped.upper() if word.isupper() else swapped.title() if word.istitle() else swapped

    return _SIDE.sub(other, name, count=1)


def mirrored(view: View) -> View:
    """Left and right exchanged."""
    last_px = view.hw[1] - 1
    xy_px = view.xy_px * np.array([-1, 1], np.float32) + np.array([last_px, 0], np.float32)
    box = view.box_xyxy
    if box is not None:
        box = (last_px - box[2], box[1], last_px - box[0], box[3])
    return View(rgb=view.rgb[:, ::-1], xy_px=xy_px, box_xyxy=box)


def cropped(view: View, left: int, top: int, right: int, bottom: int) -> View:
    """Columns `left` up to, not including, `right`, and rows `top` up to `bottom`."""
    box = view.box_xyxy
    if box is not None:
        box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    xy_px = view.xy_px - np.array([left, top], np.float32)
    return View(rgb=view.rgb[top:bottom, left:right], xy_px=xy_px, box_xyxy=box)


def crop_around_box(view: View, generator: Generator, least: float) -> View:
    """A random crop that keeps the box, or all points where there is none, and at least that share of each side."""
    box = view.box_xyxy or _hull(view.xy_px)
    if box is None:
        return view
    height, width = view.hw
    left, right = _span(box[0], box[2], width, math.ceil(least * width), generator)
    top, bottom = _span(box[1], box[3], height, math.ceil(least * height), generator)
    return cropped(view, left, top, right, bottom)


def _span(low_px: float, high_px: float, size: int, least: int, generator: Generator) -> tuple[int, int]:
    """The first pixel kept along one axis, and that after the last."""
    low, high = (math.floor(min(max(end, 0), size - 1)) for end in (low_px, math.ceil(high_px)))
    first = int(uniform(generator, 0, low + 1))
    last = int(uniform(generator, high, size))
    last = max(last, min(first + least, size) - 1)
    first = min(first, max(last + 1 - least, 0))
    return first, last + 1


def jittered(view: View, generator: Generator, affine: AffineRange) -> View:
    """The image moved by a random affine map on a canvas of its size, and the box around what was its box."""
    forward = affine.draw(view.hw, generator)
    rgb = resample(view.rgb, forward.inverse()(pixel_grid(view.hw).numpy()))
    box = view.box_xyxy
    if box is not None:
        corners = np.array([(x, y) for x in box[::2] for y in box[1::2]])
        box = _hull(forward(corners))
    return View(rgb=rgb, xy_px=forward(view.xy_px).astype(np.float32), box_xyxy=box)


def recoloured(rgb: RGB, generator: Generator, config: AugmentConfig) -> RGB:
    """The image in another light."""

    def factor(strength: float) -> float:
        return uniform(generator, 1 - strength, 1 + strength)

    image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    image = functional.adjust_brightness(image, factor(config.brightness))
    image = functional.adjust_contrast(image, factor(config.contrast))
    image = functional.adjust_saturation(image, factor(config.saturation))
    image = functional.adjust_hue(image, uniform(generator, -config.hue, config.hue))
    if chance(generator, config.grey):
        image = functional.rgb_to_grayscale(image, num_output_channels=3)
    return image.permute(1, 2, 0).numpy()


def _moved(view: View, generator: Generator, config: AugmentConfig) -> View:
    if chance(generator, config.jitter):
        view = jittered(view, generator, config.affine)
    if chance(generator, config.crop):
        view = crop_around_box(view, generator, config.crop_least)
    return view


def _anywhere(hw: tuple[int, int], generator: Generator) -> Box:
    """One pixel anywhere in an image, as a box."""
    y, x = (float(math.floor(uniform(generator, 0, size))) for size in hw)
    return x, y, x, y


def _hull(xy_px: np.ndarray) -> Box | None:
    """The box around points; None around none."""
    if not len(xy_px):
        return None
    (x_min, y_min), (x_max, y_max) = xy_px.min(axis=0).tolist(), xy_px.max(axis=0).tolist()
    return x_min, y_min, x_max, y_max
