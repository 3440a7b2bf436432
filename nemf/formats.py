"""The kinds of networks that checkpoint folders hold: what config.json must say of each, and what builds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nemf.lpmflow.build import build as build_lpmflow
from nemf.lpmflow.presets import LPMFlowConfig
from nemf.model.build import build as build_nemf
from nemf.model.presets import NeMFConfig
from nemf.model.weights_file import FIELDS
from nemf.pmnc.config import pmnc_settings_from_json
from nemf.pmnc.network import build as build_pmnc
from nemf.pmnc.presets import PMNCConfig
from nemf.search.config import settings_from_json

_MAX_VOLUME_VALUES = 2**28
"""Maximum number of values of a 4D volume, 1 GiB in float32; the published network has 2^26."""

Requirement = tuple[str, Callable[[Any], bool]]
"""What a field of config.json must be, in words and as a test."""


def is_size(value: Any) -> bool:
    """Whether `value` is a SIZE."""
    return type(value) is int and 1 <= value <= 4096


def _is_up_to(most: int) -> Callable[[Any], bool]:
    return lambda value: is_size(value) and value <= most


def _is_odd_up_to_9(value: Any) -> bool:
    return _is_up_to(9)(value) and value % 2 == 1


SIZE: Requirement = ("a whole number from 1 to 4096", is_size)
_DEPTH: Requirement = ("a whole number from 0 to 64", lambda value: type(value) is int and 0 <= value <= 64)
_FLAG: Requirement = ("true or false", lambda value: type(value) is bool)
_INDICES, _are_indices = FIELDS["out_indices"]
_BACKBONE = FIELDS | {
    "backbone": ("the name of a backbone", lambda value: isinstance(value, str)),
    "out_indices": (f"{_INDICES}, or null", lambda value: value is None or _are_indices(value)),
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of network."""

    name: str
    """Its `format` in config.json; the number rises when older files can no longer be read."""
    config: type[Any]
    """The class of its configuration; besides its own fields it has `backbone_config`."""
    requirements: Mapping[str, Requirement]
    """The requirement on each field of config.json; fields not named here must be a SIZE."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of fields that files written before there were these fields lack."""
    build: Callable[..., nn.Module]
    """The network of (configuration, backbone or None), with random weights but for those of a backbone that is given;
    ValueError where sizes do not fit each other."""
    matcher: str
    """'module:function' that builds its matcher, as nemf.matchers.table says."""
    search: Callable[[Any], dict[str, Any]] = settings_from_json
    """The settings that the `search` object of config.json holds; ValueError for those that cannot be."""
    check: Callable[[Any, Mapping[str, Tensor]], None] = lambda config, tensors: None
    """Raises ValueError for a network, by its configuration and its tensors' shapes, that no machine can run: where no
    weight depends on a size, a small file may claim any."""


def _check_volumes(config: NeMFConfig, tensors: Mapping[str, Tensor]) -> None:
    channels = tensors["field.embedding.conv.over_source.weight"].shape[0] + config.keep_correlation
    patches = [tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("patch_embed.proj.weight")]
    cell_px = max([8, *patches])
    values = channels * max(config.feature_size, config.image_size // cell_px) ** 4
    if values > _MAX_VOLUME_VALUES:
        raise ValueError(
            f"{channels} cost channels, feature_size {config.feature_size} and image_size {config.image_size} ask for "
            f"volumes of up to {values:.1e} values; at most {_MAX_VOLUME_VALUES:.1e} are allowed"
        )


_NEMF = Format(
    name="nemf-1",
    config=NeMFConfig,
    requirements=_BACKBONE
    | {
        "neck_channels": (
            "0, or a whole number from 2 to 4096",
            lambda value: type(value) is int and (value == 0 or 2 <= value <= 4096),
        ),
        "neck_blocks": _DEPTH,
        "decoder_channels": (
            "a whole number from 0 to 4096",
            lambda value: type(value) is int and (value == 0 or is_size(value)),
        ),
        "cost_channels": ("a whole number from 1 to 4096, or null", lambda value: value is None or is_size(value)),
        "keep_correlation": _FLAG,
        "embedding_channels": (
            "two whole numbers from 1 to 4096, or none",
            lambda value: isinstance(value, list) and len(value) in (0, 2) and all(map(is_size, value)),
        ),
        "depth": _DEPTH,
        "field_blocks": ("a whole number from 1 to 64", _is_up_to(64)),
    },
    defaults={"decoder_channels": 0},
    build=build_nemf,
    matcher="nemf.matchers.nemf:build",
    check=_check_volumes,
)
_LPMFLOW = Format(
    name="lpmflow-1",
    config=LPMFlowConfig,
    requirements=_BACKBONE
    | {
        "depth": _DEPTH,
        "upsampler_blocks": _DEPTH,
        "windows": (
            "a list of at most 8 whole numbers from 1 to 32",
            lambda value: isinstance(value, list) and len(value) <= 8 and all(map(_is_up_to(32), value)),
        ),
    },
    build=build_lpmflow,
    matcher="nemf.matchers.lpmflow:build",
)


def _check_correlation(config: PMNCConfig, tensors: Mapping[str, Tensor]) -> None:
    values = (config.feature_size + 2 * config.radius) ** 4
    if values > _MAX_VOLUME_VALUES:
        raise ValueError(
            f"feature_size {config.feature_size} asks for correlations of {values:.1e} values; at most "
            f"{_MAX_VOLUME_VALUES:.1e} are allowed"
        )


_PMNC = Format(
    name="pmnc-1",
    config=PMNCConfig,
    requirements=_BACKBONE
    | {
        "kernels": (
            "a list of 1 to 4 odd numbers from 1 to 9",
            lambda value: isinstance(value, list) and 1 <= len(value) <= 4 and all(map(_is_odd_up_to_9, value)),
        ),
        "channels": (
            "a list of 1 to 4 whole numbers from 1 to 256",
            lambda value: isinstance(value, list) and 1 <= len(value) <= 4 and all(map(_is_up_to(256), value)),
        ),
    },
    build=build_pmnc,
    matcher="nemf.matchers.pmnc:build",
    search=pmnc_settings_from_json,
    check=_check_correlation,
)

FORMATS = {format.name: format for format in (_NEMF, _LPMFLOW, _PMNC)}


def format_of(config: Any) -> Format:
    """The format whose configuration `config` is."""
    return next(format for format in FORMATS.values() if type(config) is format.config)
