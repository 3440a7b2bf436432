"""The settings of a search, and their allowed values. Imports no torch.

SearchConfig is the only judge of a setting, wherever it comes from: Python, a matcher's name, a job's --search, or the
config.json of a checkpoint.
"""

import itertools
import reprlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

from nemf.options import parse_options


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1000


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_node_count(value: Any) -> bool:
    return type(value) is int and (value == 0 or 2 <= value <= 128)


def _are_strides(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and 0 < len(value) <= 8
        and all(type(stride) is int and 1 <= stride <= 4096 for stride in value)
        and all(coarse > fine for coarse, fine in itertools.pairwise(value))
    )


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "patchmatch_steps": ("a whole number from 0 to 1000", _is_count),
    "refine_steps": ("a whole number from 0 to 1000", _is_count),
    "refine_lr": ("a number above 0 and below 1e6", lambda value: _is_number(value) and 0 < value < 1e6),
    "radius_norm": ("a number above 0 and at most 2", lambda value: _is_number(value) and 0 < value <= 2),
    "radius_decay": ("a number above 0 and at most 1", lambda value: _is_number(value) and 0 < value <= 1),
    "seed": ("a whole number between -2^63 and 2^63", lambda value: type(value) is int and abs(value) < 2**63),
    "positional_gradient": ("true or false", _is_flag),
    "neighbour_offset": ("true or false", _is_flag),
    "grid_strides": ("a list of 1 to 8 falling whole numbers from 1 to 4096", _are_strides),
    "point_search": ("patchmatch, map or mirrored-map", lambda value: value in ("patchmatch", "map", "mirrored-map")),
    "flow_nodes": ("0 or a whole number from 2 to 128", _is_node_count),
    "precision": ("float32 or bfloat16", lambda value: value in ("float32", "bfloat16")),
}
"""The requirement on each setting, in words and as a test."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SearchConfig:
    """The settings of a search of the field; the defaults are those of the published code.

    Raises ValueError naming the setting that cannot be.
    """

    patchmatch_steps: int = 20
    refine_steps: int = 20
    refine_lr: float = 3e-4
    radius_norm: float = 0.1
    """Maximum distance of PatchMatch from the coarse flow, and of refinement from PatchMatch, in normalised
    coordinates."""
    seed: int = 0
    positional_gradient: bool = False
    """Refine along the whole gradient, including that through the encoding of the position."""
    neighbour_offset: bool = False
    """PatchMatch tries a neighbour's position moved by the offset from that neighbour to the pixel."""
    radius_decay: float = 1.0
    """Factor of the radius of the random steps after each iteration."""
    grid_strides: tuple[int, ...] = (1,)
    """Grids to search one after the other, each from the result of the one before: every n-th pixel. Where the last is
    not every pixel, points start between its pixels, and a flow is refined at its pixels and interpolated between."""
    point_search: Literal["patchmatch", "map", "mirrored-map"] = "patchmatch"
    """map: a point's match is where the field has most on a map of the whole reference (nemf.search.score_peak);
    there is no PatchMatch and no coordinate optimisation. mirrored-map: the field is then the mean of that of the pair
    and that of its images mirrored, which takes twice the time."""
    flow_nodes: int = 0
    """Number of nodes along a query's longer side at which its flow is searched and made a map (nemf.flow_map). 0: the
    flow is that of the grid's pixels, each matched by itself, as in the published code."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision in which backbone and neck compute (nemf.model.for_matching); on a GPU that of the field's matrix
    products too, which bfloat16 runs in one kernel."""

    def __post_init__(self) -> None:
        check_settings(**{field.name: getattr(self, field.name) for field in fields(self)})


def check_settings(**settings: Any) -> None:
    """Raises ValueError naming the first of some fields of SearchConfig that cannot be."""
    for name, value in settings.items():
        if fault := setting_fault(name, value):
            raise ValueError(f"{name} {fault}")


def setting_fault(name: str, value: Any) -> str | None:
    """'must be ...; got ...' where `value` cannot be the SearchConfig field `name`, otherwise None."""
    expected, holds = _RULES[name]
    return None if holds(value) else f"must be {expected}; got {reprlib.repr(value)}"


CHECKPOINT_SETTINGS = tuple(field.name for field in fields(SearchConfig) if field.name != "precision")
"""The settings that a checkpoint may bring along; the precision depends on the machine."""


def settings_from_json(content: Any) -> dict[str, Any]:
    """The settings that the `search` object of a checkpoint's config.json holds, lists as tuples.

    Raises ValueError for anything but an object, unknown fields and values that cannot be.
    """
    if not isinstance(content, dict):
        raise ValueError(f"search must be a JSON object; got {reprlib.repr(content)}")
    if unknown := content.keys() - set(CHECKPOINT_SETTINGS):
        raise ValueError(f"search has unknown fields: {', '.join(sorted(unknown))}")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    for name, value in settings.items():
        if fault := setting_fault(name, value):
            raise ValueError(f"field search.{name} {fault}")
    return settings


def search_options(name: str, text: str, also: Collection[str] = ()) -> dict[str, Any]:
    """Fields of SearchConfig out of a text such as 'refine_steps=5&seed=1'.

    name: what an error begins with. also: as in parse_options.
    Raises ValueError for unknown fields and values that cannot be.
    """
    options = parse_options(name, text, get_type_hints(SearchConfig), also)
    try:
        check_settings(**options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return options


def as_options(settings: dict[str, Any]) -> tuple[str, ...]:
    """Settings as 'name=value' texts, which search_options reads back when joined by '&'."""
    return tuple(f"{name}={_as_text(value)}" for name, value in settings.items())


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
