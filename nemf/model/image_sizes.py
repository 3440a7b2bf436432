"""The sizes of images that a network takes."""

import math

import torch

from nemf.model.backbone import Backbone
from nemf.model.descriptors import Descriptors

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 32, 4096
"""Sides of the square images of any network, in pixels."""


def fitting_size(
    name: str,
    network: Backbone | Descriptors,
    asked: int,
    *,
    multiple_of: int = 1,
    most: int = MAX_IMAGE_SIZE,
    insist: bool = True,
) -> tuple[int, list[int]]:
    """The side of square images nearest to that asked for that a network takes, pixels, and its maps' cells a side.

    name: what an error begins with. multiple_of: the side is a multiple of it too, but for a network of one size.
    insist: not to fall back on the one size that the network was trained for where it takes no other.
    Raises ValueError for a side out of range, MIN_IMAGE_SIZE to `most`, and where the network cannot take it.
    """
    if not MIN_IMAGE_SIZE <= asked <= most:
        raise ValueError(f"{name}: image_size must be {MIN_IMAGE_SIZE} to {most}; got {asked}")
    step = math.lcm(network.size_step, multiple_of)
    size = asked
    if network.only_size:
        size = network.only_size
    elif asked != network.trained_size or asked % multiple_of:
        size = min(max(round(asked / step), math.ceil(MIN_IMAGE_SIZE / step)), max(most // step, 1)) * step
    try:
        return size, cells_a_side(name, network, size)
    except ValueError:
        if insist or network.trained_size is None:
            raise
        return network.trained_size, cells_a_side(name, network, network.trained_size)


def cells_a_side(name: str, network: Backbone | Descriptors, image_size: int) -> list[int]:
    """The cells a side of each of a network's maps of square images; ValueError where it cannot take that size.

    name: what the error begins with.
    """
    blank = torch.zeros(1, 3, image_size, image_size, device=network.mean.device)
    try:
        with torch.inference_mode():
            return [features.shape[2] for features in network(blank)]
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        trained = "" if network.trained_size in (None, image_size) else f", {network.trained_size}"
        raise ValueError(
            f"{name}: the network cannot take images of {image_size} x {image_size} ({error}); choose its image_size"
            f"{trained}, or a network that takes others: "
            "a ViT, DeiT, DINOv2, EVA, BEiT, Swin or MaxViT of timm, or a convolutional network"
        ) from error
