"""State dicts of any published system, told apart by their names."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from nemf.lpmflow.network import LPMFlow
from nemf.model.network import NeMF
from nemf.official import names
from nemf.official.lpmflow_names import is_lpmflow, lpmflow_config, lpmflow_network


def from_official_state_dict(
    state_dict: Mapping[str, Tensor], num_heads: int = 6, hyperpixels: Sequence[int] | None = None
) -> NeMF | LPMFlow:
    """The network of an official NeMF or LPMFlow checkpoint's 'state_dict', in eval mode.

    All sizes are read off its shapes. num_heads, hyperpixels: of NeMF only, see names.from_official_state_dict.
    Raises ValueError naming every tensor that is missing, unexpected, of another shape or type, or not finite.
    """
    if is_lpmflow(state_dict):
        return lpmflow_network(state_dict, lpmflow_config(state_dict))
    return names.from_official_state_dict(state_dict, num_heads, hyperpixels)
