"""The sizes of a PMNC network, and the networks that have a name. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nemf.model.backbone_config import BackboneConfig


@dataclass(kw_only=True, slots=True)
class PMNCConfig:
    """Everything that decides the shape of a network."""

    backbone: str
    """Name of the backbone, see nemf.model.backbone."""
    backbone_config: BackboneConfig
    image_size: int = 400
    """Side of the square images the network takes, in pixels."""
    feature_size: int = 25
    """Cells a side of the feature maps, to which the backbone's maps are interpolated."""
    kernels: tuple[int, ...] = (5, 1)
    """Sides of the kernels of the 4D convolutions that score a patch, odd numbers. A patch has 1 + sum(kernels - 1)
    cells a side. The paper does not say; an author's earlier prototype has patches of five."""
    channels: tuple[int, ...] = (16, 1)
    """Channels after each convolution; the last is 1."""

    @property
    def radius(self) -> int:
        """Number of cells on each side of the middle one of a patch."""
        return sum(kernel // 2 for kernel in self.kernels)


def pmnc_paper() -> PMNCConfig:
    """ResNet-101 up to its third layer, images of 400 pixels, 25 cells a side.

    The scorer is of one hidden layer over the whole patch. A stack of kernels of three has fewer weights, but each
    candidate then computes 81 hidden cells instead of one, and PatchMatch takes longer than the whole convolution.
    """
    config = BackboneConfig(out_indices=(3,), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return PMNCConfig(backbone="torchvision/resnet101", backbone_config=config)


def pmnc_small() -> PMNCConfig:
    """The same on a MobileNetV1, for CPUs: two of its maps, 40 cells a side."""
    config = BackboneConfig(
        create_kwargs={"pad_type": "same", "bn_eps": 0.001},
        out_indices=(2, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return PMNCConfig(backbone="timm/mobilenetv1_100", backbone_config=config, image_size=320, feature_size=40)


def with_patch(side: int) -> PMNCConfig:
    """pmnc_small with patches of another side, for the ablation."""
    return replace(pmnc_small(), kernels=(side, 1))


PRESETS: dict[str, Callable[[], Any]] = {
    "pmnc-paper": pmnc_paper,
    "pmnc-small": pmnc_small,
    "pmnc-small-patch-1": partial(with_patch, 1),
    "pmnc-small-patch-3": partial(with_patch, 3),
    "pmnc-small-patch-7": partial(with_patch, 7),
}
