"""The settings of PMNC's search. Imports no torch."""

import reprlib
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

from nemf.options import parse_options

_MOST_ITERATIONS = 1000


@dataclass(kw_only=True, frozen=True, slots=True)
class PMNCSearch:
    """The settings of a search. Raises ValueError naming the one that cannot be."""

    iterations: int = 8
    """Maximum number of PatchMatch's iterations; it ends where no match changes. 0: the best correlations."""
    propagation: Literal["offset", "absolute"] = "offset"
    """A cell tries the match of another moved by the step from there (offset), or that match itself (absolute), as the
    authors' prototype does. The paper does not say. With offset the search ends earlier and scores a third less."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the backbone and neck."""

    def __post_init__(self) -> None:
        if type(self.iterations) is not int or not 0 <= self.iterations <= _MOST_ITERATIONS:
            raise ValueError(f"iterations must be a whole number from 0 to {_MOST_ITERATIONS}; got {self.iterations!r}")
        if self.propagation not in ("offset", "absolute"):
            raise ValueError(f"propagation must be offset or absolute; got {self.propagation!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16; got {self.precision!r}")


_CHECKPOINT_SETTINGS = {field.name for field in fields(PMNCSearch)} - {"precision"}
"""The settings that a checkpoint may bring along; the precision depends on the machine."""


def pmnc_search_options(name: str, text: str, also: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of PMNCSearch out of a text such as 'iterations=4&propagation=absolute'.

    name: what an error begins with. also: as in parse_options. Raises ValueError for settings that cannot be.
    """
    options = parse_options(name, text, get_type_hints(PMNCSearch), also)
    try:
        PMNCSearch(**options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return options


def pmnc_settings_from_json(content: Any) -> dict[str, Any]:
    """The settings that the `search` object of a checkpoint's config.json holds.

    Raises ValueError for anything but an object, unknown fields and values that cannot be.
    """
    if not isinstance(content, dict):
        raise ValueError(f"search must be a JSON object; got {reprlib.repr(content)}")
    if unknown := content.keys() - _CHECKPOINT_SETTINGS:
        raise ValueError(f"search has unknown fields: {', '.join(sorted(unknown))}")
    try:
        PMNCSearch(**content)
    except ValueError as error:
        raise ValueError(f"field search.{error}") from error
    return content
