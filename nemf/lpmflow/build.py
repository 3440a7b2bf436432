"""The LPMFlow network of given sizes."""

from nemf.lpmflow.decoder import Decoder
from nemf.lpmflow.encoder import PairEncoder
from nemf.lpmflow.flow import FLOW_CELLS, N_FLOWS, FlowIntegration
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.presets import LPMFlowConfig
from nemf.lpmflow.tokens import build_tokens
from nemf.lpmflow.window import UPSAMPLER_WINDOW, Upsampler
from nemf.model.backbone import Backbone

MAX_CELLS = 32
"""Maximum number of coarse cells a side: a table of a file says how many, and small files may claim any."""


def build(config: LPMFlowConfig, backbone: Backbone | None = None) -> LPMFlow:
    """The network of these sizes, with random weights, in eval mode.

    backbone: one that is loaded already, as `config` describes it; by default it gets random weights too.
    Raises ValueError for sizes that do not fit each other.
    """
    cells, fine = config.cells, 2 * config.cells
    if cells > MAX_CELLS:
        raise ValueError(f"cells must be at most {MAX_CELLS}: correlations have (2 cells)^4 values; got {cells}")
    if config.dim % config.heads:
        raise ValueError(f"dim {config.dim} must be divisible by the number of heads, {config.heads}")
    if (2 * N_FLOWS + config.context_channels) % config.heads:
        raise ValueError(
            f"context_channels + {2 * N_FLOWS} must be divisible by the number of heads, {config.heads}; "
            f"got {config.context_channels} context channels"
        )
    if fine % UPSAMPLER_WINDOW:
        raise ValueError(f"cells must be a multiple of {UPSAMPLER_WINDOW // 2}; got {cells}")
    if odd := [window for window in config.windows if FLOW_CELLS * fine % window]:
        raise ValueError(f"windows must divide the flow's {FLOW_CELLS * fine} cells a side; got {odd[0]}")
    tokens = build_tokens(config, backbone)
    sides = ((cells,), (cells, fine), (fine,))
    coarse, mixed, finest = (Decoder(side, config.dim, config.heads, config.mlp_ratio) for side in sides)
    integration = None
    if config.windows:
        integration = FlowIntegration(config.dim, config.context_channels, config.windows, config.heads)
    return LPMFlow(
        tokens,
        PairEncoder(cells=cells, dim=config.dim, depth=config.depth, heads=config.heads, mlp_ratio=config.mlp_ratio),
        (coarse, mixed, finest),
        Upsampler(config.dim, config.heads, config.upsampler_blocks, config.mlp_ratio),
        integration,
        cells=cells,
    ).eval()
