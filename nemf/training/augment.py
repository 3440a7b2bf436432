"""Augmentation: an example with its images transformed, cropped, mirrored and recoloured, its points following."""

import math
import re
from dataclasses import dataclass, field, fields, replace

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
    """Strength of the random changes of examples. A probability is per image, drawn for each of the two."""

    swap: float = 0.5
    """Probability that reference and query change roles."""
    flip: float = 0.5
    """Probability of a mirrored image. Where no keypoint's name holds left or right, both are mirrored or none."""
    crop: float = 0.5
    """Probability of a crop. It keeps the bounding box, or all points where there is none."""
    min_crop_share: float = 0.3
    """Minimum width and height of a crop, as a share of the image's."""
    jitter: float = 0.5
    """Probability of an affine map of the whole image."""
    affine: AffineRange = field(default_factory=lambda: AffineRange(rotation_deg=15.0, scale=1.2, shear=0.1, shift=0.1))
    """Range of the affine maps."""
    brightness: float = 0.4
    """Brightness factors are drawn from [1 - brightness, 1 + brightness); likewise contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    """Maximum hue shift either way, as a share of the colour circle."""
    grey: float = 0.1
    """Probability of a greyscale image."""

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self) if item.name not in ("affine", "hue")):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be from 0 to 0.5; got {self.hue}")


def augment(example: Example, generator: Generator, config: AugmentConfig) -> Example:
    """The example changed at random. Points that leave either image are dropped from both.

    If the geometric changes would leave no point, only the colours are changed.
    """
    transformed = replace(
        example,
        reference=_transformed(example.reference, generator, config),
        query=_transformed(example.query, generator, config),
    )
    flips = [chance(generator, config.flip) for _ in range(2)]
    transformed = flipped(transformed, reference=flips[0], query=flips[1]).drop_outside_points()
    if chance(generator, config.swap):
        transformed, example = transformed.swapped(), example.swapped()
    kept = transformed if len(transformed) else example.drop_outside_points()
    return replace(
        kept,
        reference=replace(kept.reference, rgb=recoloured(kept.reference.rgb, generator, config)),
        query=replace(kept.query, rgb=recoloured(kept.query.rgb, generator, config)),
    )


def augment_image(rgb: RGB, generator: Generator, config: AugmentConfig) -> RGB:
    """One image without points, changed at random as `augment` changes those of an example."""
    view = View(rgb=rgb, xy_px=np.zeros((0, 2), np.float32))
    if chance(generator, config.jitter):
        view = jittered(view, generator, config.affine)
    if chance(generator, config.crop):
        view = replace(view, box_xyxy=_random_pixel(view.hw, generator))
        view = crop_around_box(view, generator, config.min_crop_share)
    if chance(generator, config.flip):
        view = mirrored(view)
    return recoloured(view.rgb, generator, config)


def flipped(example: Example, *, reference: bool, query: bool) -> Example:
    """The example with its reference, its query or both mirrored.

    A mirrored left eye looks like a right eye, so names change sides with their image, and where one image is mirrored
    the points are matched anew by name: those without counterpart are dropped. Where names do not tell left from
    right, the query is mirrored if the reference is.
    """
    names = example.keypoint_id
    sided = names is not None and len(set(names)) == len(names) and any(opposite(name) != name for name in names)
    if not sided:
        query = reference
    views = (
        mirrored(example.reference) if reference else example.reference,
        mirrored(example.query) if query else example.query,
    )
    if names is None or not sided:
        # on a mirrored image such a name may mean the other side: it must not match the name on images not mirrored
        category = f"{example.category} mirrored" if reference else example.category
        return replace(example, reference=views[0], query=views[1], category=category)
    reference_names, query_names = ([opposite(name) if flip else name for name in names] for flip in (reference, query))
    row_of = {name: row for row, name in enumerate(query_names)}
    rows = [row for row, name in enumerate(reference_names) if name in row_of]
    kept = tuple(reference_names[row] for row in rows)
    query_rows = [row_of[name] for name in kept]
    probability = example.probability
    if probability is not None:
        probability = np.minimum(probability[rows], probability[query_rows])  # both points' matches must be right
    return replace(
        example,
        reference=views[0].select_points(np.array(rows, int)),
        query=views[1].select_points(np.array(query_rows, int)),
        keypoint_id=kept,
        probability=probability,
    )


def opposite(name: str) -> str:
    """The name with left and right exchanged: left_ear for right_ear, R_Eye for L_Eye, nose for nose."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        swapped = _OPPOSITE[word.lower()]
        return swapped.upper() if word.isupper() else swapped.title() if word.istitle() else swapped

    return _SIDE.sub(other, name, count=1)


def mirrored(view: View) -> View:
    """The view flipped horizontally."""
    last_px = view.hw[1] - 1
    xy_px = view.xy_px * np.array([-1, 1], np.float32) + np.array([last_px, 0], np.float32)
    box = view.box_xyxy
    if box is not None:
        box = (last_px - box[2], box[1], last_px - box[0], box[3])
    return View(rgb=view.rgb[:, ::-1], xy_px=xy_px, box_xyxy=box)


def cropped(view: View, left: int, top: int, right: int, bottom: int) -> View:
    """The view's columns left..right - 1 and rows top..bottom - 1, in pixels."""
    box = view.box_xyxy
    if box is not None:
        box = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    xy_px = view.xy_px - np.array([left, top], np.float32)
    return View(rgb=view.rgb[top:bottom, left:right], xy_px=xy_px, box_xyxy=box)


def crop_around_box(view: View, generator: Generator, min_share: float) -> View:
    """A random crop that keeps the bounding box, or all points without one, and at least min_share of each side."""
    box = view.box_xyxy or _bounding_box(view.xy_px)
    if box is None:
        return view
    height, width = view.hw
    left, right = _span(box[0], box[2], width, math.ceil(min_share * width), generator)
    top, bottom = _span(box[1], box[3], height, math.ceil(min_share * height), generator)
    return cropped(view, left, top, right, bottom)


def _span(low_px: float, high_px: float, size: int, min_size: int, generator: Generator) -> tuple[int, int]:
    """Start and stop (exclusive) of a random interval of 0..size that holds low_px..high_px and min_size pixels."""
    low, high = (math.floor(min(max(end, 0), size - 1)) for end in (low_px, math.ceil(high_px)))
    first = int(uniform(generator, 0, low + 1))
    last = int(uniform(generator, high, size))
    last = max(last, min(first + min_size, size) - 1)
    first = min(first, max(last + 1 - min_size, 0))
    return first, last + 1


def jittered(view: View, generator: Generator, affine: AffineRange) -> View:
    """The view under a random affine map, of the same size; its box is the bounding box of the mapped box."""
    forward = affine.draw(view.hw, generator)
    rgb = resample(view.rgb, forward.inverse()(pixel_grid(view.hw).numpy()))
    box = view.box_xyxy
    if box is not None:
        corners = np.array([(x, y) for x in box[::2] for y in box[1::2]])
        box = _bounding_box(forward(corners))
    return View(rgb=rgb, xy_px=forward(view.xy_px).astype(np.float32), box_xyxy=box)


def recoloured(rgb: RGB, generator: Generator, config: AugmentConfig) -> RGB:
    """The image with random brightness, contrast, saturation and hue."""

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


def _transformed(view: View, generator: Generator, config: AugmentConfig) -> View:
    """The view under a random affine map and a random crop, each with its probability."""
    if chance(generator, config.jitter):
        view = jittered(view, generator, config.affine)
    if chance(generator, config.crop):
        view = crop_around_box(view, generator, config.min_crop_share)
    return view


def _random_pixel(hw: tuple[int, int], generator: Generator) -> Box:
    """A random pixel of an image of size (h, w), as a box."""
    y, x = (float(math.floor(uniform(generator, 0, size))) for size in hw)
    return x, y, x, y


def _bounding_box(xy_px: np.ndarray) -> Box | None:
    """The bounding box of points (n, 2); None for n = 0."""
    if not len(xy_px):
        return None
    (x_min, y_min), (x_max, y_max) = xy_px.min(axis=0).tolist(), xy_px.max(axis=0).tolist()
    return x_min, y_min, x_max, y_max
