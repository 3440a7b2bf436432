"""Inputs of the benchmarks: networks with random weights and pairs of pictures, the same every time."""

import math

import numpy as np
import skimage.data
import torch
from PIL import Image

from nemf.matcher import RGB, ImagePair
from nemf.model.build import build
from nemf.model.network import Encoded, NeMF
from nemf.model.presets import PRESETS


def random_model(preset: str, device: torch.device, seed: int = 0) -> NeMF:
    """The network of a preset with weights that keep values in range, so that scores differ between positions.

    Raises ValueError with the names there are.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; there are: {', '.join(PRESETS)}")
    model = build(PRESETS[preset]())
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("_normal"):
            tensor.copy_(_weights(name, torch.randn(tensor.shape, generator=generator)))
    return model.requires_grad_(False).to(device)


def _weights(name: str, x: torch.Tensor) -> torch.Tensor:
    if name.endswith("running_var"):
        return 1 + 0.1 * x.abs()
    if name.endswith("running_mean"):
        return 0.1 * x
    if name.endswith("bias"):
        return 0.05 * x
    if name.endswith("bn3.weight"):
        return 0.2 * (1 + 0.1 * x)  # the last layer of a residual block: the blocks' sum stays in range
    if x.ndim == 1:
        return 1 + 0.1 * x
    return x / math.sqrt(math.prod(x.shape[1:]))


def picture(hw: tuple[int, int], number: int) -> RGB:
    """A photograph brought to this size; other numbers are shifted copies."""
    image = Image.fromarray(skimage.data.astronaut()).resize((hw[1], hw[0]), Image.Resampling.BICUBIC)
    return np.roll(np.asarray(image), 3 * number, axis=1)


def image_pair(hw: tuple[int, int], number: int, *, points: int | None) -> ImagePair:
    """Two pictures of this size and so many random points, at whole pixels; dense for None."""
    rng = np.random.default_rng(number)
    xy_px = None if points is None else rng.integers(0, [hw[1], hw[0]], (points, 2)).astype(np.float32)
    return ImagePair(
        query_rgb=picture(hw, 2 * number),
        reference_rgb=picture(hw, 2 * number + 1),
        query_xy_px=xy_px,
        dense=points is None,
        pair_id=str(number),
    )


@torch.no_grad()
def encoded_pictures(model: NeMF) -> Encoded:
    """The encoded batch of one pair of pictures."""
    backbone = model.backbone
    size = (model.image_size, model.image_size)
    rgb = [torch.tensor(picture(size, number)).to(backbone.mean.device).permute(2, 0, 1) for number in (0, 1)]
    source, target = (((image / 255 - backbone.mean) / backbone.std)[None] for image in rgb)
    return model.encode(source, target)
