"""The configuration of a backbone: how to build it, and the images it takes. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_RESERVED = {"weights", "progress", "num_classes"}
"""Arguments of the libraries' builders that no file gives; a classifier would be cut off, but could be of any size."""


BACKBONE_OPTIONS = {"layers": tuple[int, ...], "norm": bool}
"""What may follow a backbone's name, 'timm/MODEL?layers=7,11&norm=true': which maps, by the library's numbers, and the
final norm of a vision transformer on each of them."""


@dataclass(kw_only=True, frozen=True, slots=True)
class BackboneConfig:
    """How to build a backbone, and the images it takes; the content of the .json file."""

    create_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the library's builder beyond the model's name: numbers, strings, true, false, null; `layers` and
    `channels` are lists of up to eight sizes."""
    out_indices: tuple[int, ...] | None = None
    """Indices of the feature maps to return, shallow to deep, in the library's numbering; None for its own choice."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """The network takes (rgb / 255 - mean) / std."""


def refuse_reserved(create_kwargs: Iterable[str], further: Iterable[str] = ()) -> None:
    """Raises ValueError for names of arguments that no file may give, or that are among `further`."""
    if reserved := {*create_kwargs} & {*_RESERVED, *further}:
        raise ValueError(f"{', '.join(sorted(reserved))} may not be among create_kwargs")
