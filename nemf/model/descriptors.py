"""The trained descriptors of a network on their own, without cost encoder and field."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.backbone import tensors_digest
from nemf.model.correlation import normalise
from nemf.model.network import NeMF


class Descriptors(nn.Module):
    """The maps that a network correlates, joined into one, for matching by nearest neighbours like a backbone's
    maps."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: NeMF) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = model.neck
        self.decoder = model.decoder
        self.size_step = model.backbone.size_step
        self.trained_size = model.backbone.trained_size
        self.only_size = model.backbone.only_size
        self.corners_aligned = model.decoder is None
        """Whether the outermost cells' centres lie on the image's edges, as neck, field and descriptor loss have it, or
        cells tile the image, as a decoder is trained."""
        self.register_buffer("mean", model.backbone.mean, persistent=False)
        self.register_buffer("std", model.backbone.std, persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """One map (b, c, h, w), of the size of the shallowest: all maps at unit length, one after the other; before a
        decoder the neck's map as it is."""
        maps = self.maps(image)
        return maps if self.decoder is not None else [join(maps)]

    def maps(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The maps (b, c_l, h_l, w_l) as the network makes them; one, where it has a neck."""
        maps = self.backbone(image)
        return maps if self.neck is None else self.neck(maps)

    def digest(self) -> str:
        """A hash of everything the map depends on."""
        return tensors_digest(self.state_dict(), [self.backbone.name, asdict(self.backbone.config)])


def join(maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
    """One map of the size of the shallowest: all maps at unit length, one after the other."""
    maps = [normalise(level) for level in maps]
    size = maps[0].shape[2:]
    resized = [F.interpolate(level, size, mode="bilinear", align_corners=True) for level in maps]
    return torch.cat(resized, dim=1)
