"""The LPMFlow network: the flow from each cell of the source image to its match in the target image.

LPMFlow, CVPR 2024. A backbone makes tokens of each image and an encoder lets those of both see each other; decoders at
two resolutions follow, whose cross attention is the correlation; the flow is read from four correlations.

Roles: the flow lives on the *source*, whose points are given: the query of nemf.matcher. It ends in the *target*, the
reference. (In NeMF's paper the words are the other way round.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.lpmflow.decoder import Decoder
from nemf.lpmflow.encoder import PairEncoder
from nemf.lpmflow.flow import FLOW_CELLS, FlowIntegration, at_side, flow_of
from nemf.lpmflow.tokens import PATCH_PX, TokenBackbone
from nemf.lpmflow.window import Upsampler


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedFlow:
    """Everything that the network computes of a batch of pairs. Token 0 is that of an image; cells go row by row."""

    backbone_source: Float[Tensor, "b token dim"]
    """Tokens of the source images, from the backbone."""
    backbone_target: Float[Tensor, "b token dim"]
    """Tokens of the target images, from the backbone."""
    encoder_source: Float[Tensor, "b token dim"]
    """Tokens of the source images, from the encoder of both images."""
    encoder_target: Float[Tensor, "b token dim"]
    """Tokens of the target images, from the encoder of both images."""
    correlations: list[Float[Tensor, "b _ _"]]
    """Attention from source cells to target cells, summed over the heads: each value 0 or more, each row at most the
    number of heads; of coarse to coarse, coarse to fine, fine to coarse, fine to fine cells."""
    flows: list[Float[Tensor, "b 2 h w"]]
    """The flows read from the four correlations, as `flow`."""
    flow: Float[Tensor, "b 2 h w"]
    """The displacement (x, y) of each source cell to its match in the target, in cells of this map; 8 of them along
    the side of a coarse cell, and all of them tile the image."""

    @property
    def correlation_22(self) -> Float[Tensor, "b source target"]:
        """The correlation of fine with fine cells, by its published name."""
        return self.correlations[-1]


class LPMFlow(nn.Module):
    """The parts of the network, which fit together; nemf.lpmflow.build makes them from a configuration.

    integration: makes one flow of the four; without one it is the finest.
    """

    x_normal: Tensor
    y_normal: Tensor

    def __init__(
        self,
        backbone: TokenBackbone,
        encoder: PairEncoder,
        decoders: tuple[Decoder, Decoder, Decoder],
        upsampler: Upsampler,
        integration: FlowIntegration | None,
        *,
        cells: int,
    ) -> None:
        super().__init__()
        self.cells = cells
        self.backbone = backbone
        self.encoder = encoder
        self.coarse_decoder, self.mixed_decoder, self.fine_decoder = decoders
        self.upsampler = upsampler
        self.integration = integration
        # published checkpoints hold these among their weights, and their flow is read with them
        self.register_buffer("x_normal", torch.linspace(-1, 1, 2 * cells))
        self.register_buffer("y_normal", torch.linspace(-1, 1, 2 * cells))

    @property
    def image_size(self) -> int:
        """Side of the square images that matching and training make, in pixels, as the published loader does: the
        network halves them."""
        return 2 * PATCH_PX * self.cells

    @property
    def flow_side(self) -> int:
        """Cells a side of the flow."""
        return 2 * FLOW_CELLS * self.cells

    def encode(self, source: Float[Tensor, "_ _ _ _"], target: Float[Tensor, "_ _ _ _"]) -> EncodedFlow:
        """Everything, from images.

        source, target: (B, 3, H, W), normalised as the backbone wants, finite; of any size: the network resizes them to
            what its backbone takes, 16 pixels a cell as published. Matching calls `tokens` once per image and
            `encode_tokens` once per pair instead.
        Raises ValueError for other shapes, batches that differ, and values that are not finite.
        """
        for role, image in (("source", source), ("target", target)):
            if image.ndim != 4 or image.shape[:2] != (len(source), 3) or 0 in image.shape:
                raise ValueError(
                    f"{role} images must have shape ({len(source)}, 3, H, W), such as H = W = {self.image_size}; "
                    f"got {tuple(image.shape)}"
                )
            if not image.is_floating_point():
                raise ValueError(f"{role} images must be normalised floating-point numbers; got {image.dtype}")
            if not image.isfinite().all():
                raise ValueError(f"{role} images must be finite; got NaN or infinity")
        return self.encode_tokens(self.tokens(source), self.tokens(target))

    def tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b token dim"]:
        """The backbone's tokens of images."""
        side = self.backbone.side
        if image.shape[2:] != (side, side):
            image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
        return self.backbone(image)

    def encode_tokens(
        self, backbone_source: Float[Tensor, "b token dim"], backbone_target: Float[Tensor, "b token dim"]
    ) -> EncodedFlow:
        """The result of `encode`, computed from the tokens of both images."""
        encoder_source, encoder_target = self.encoder(backbone_source, backbone_target)
        coarse, source, target = self.coarse_decoder(encoder_source, encoder_target)
        fine_source, fine_target = self.upsampler(source), self.upsampler(target)
        to_fine, source_1, fine_target_1 = self.mixed_decoder(source, fine_target)
        to_coarse, fine_source_1, target_1 = self.mixed_decoder(fine_source, target)
        fine, refined_source, _ = self.fine_decoder(
            self.upsampler(source_1) + fine_source_1, fine_target_1 + self.upsampler(target_1)
        )
        correlations = [coarse, to_fine, to_coarse, fine]
        flows = [self._flow(correlation) for correlation in correlations]
        return EncodedFlow(
            backbone_source=backbone_source,
            backbone_target=backbone_target,
            encoder_source=encoder_source,
            encoder_target=encoder_target,
            correlations=correlations,
            flows=flows,
            flow=flows[-1] if self.integration is None else self.integration(flows, refined_source),
        )

    def _flow(self, correlation: Float[Tensor, "b source target"]) -> Float[Tensor, "b 2 h w"]:
        """The flow that a correlation tells, in cells of `flow`."""
        flow = flow_of(at_side(correlation, 2 * self.cells), self.x_normal, self.y_normal)
        return FLOW_CELLS * F.interpolate(flow, scale_factor=FLOW_CELLS, mode="nearest")
