"""The matchers by name: how each name is written, what the matcher is, and what builds it. Imports no torch.

To add a matcher, write one file with its class and a `build` function, and one entry here. load_matcher, its errors and
the help of the commands read this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nemf import pretrained
from nemf.options import parse_options

FIXED_NAMES = ("identity", *pretrained.NAMES)
"""Names that always mean these matchers, even if a folder has the same name."""
FOLDER_PREFIX = "descriptors:"
"""Prefix that may precede the path or URI of a checkpoint folder."""

COMMON_OPTIONS = {"zoom": Literal["0", "1"]}
"""The types of the options that every matcher takes: zoom=1 for a second look, see nemf.matchers.zoom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatcherEntry:
    """One way to name a matcher."""

    form: str
    """The form of the name; words in capital letters stand for values."""
    about: str
    """Description of the matcher, for help."""
    fits: Callable[[str], bool]
    """Whether a name, without its options, is written this way."""
    builder: str
    """'module:function', a function of (name, *, backbone_weights: str | None, device: torch.device) -> Matcher."""
    takes_backbone_weights: bool = False
    """Whether backbone_weights may be given."""
    takes_options: bool = True
    """Whether options of its own may follow a '?'; the builder reads them."""


def _is_folder(base: str) -> bool:
    return "://" in base or (base != "" and Path(base).is_dir())


def _is_factory(base: str) -> bool:
    module_name, _, factory_name = base.partition(":")
    return all(part.isidentifier() for part in [*module_name.split("."), factory_name])


_NEAREST_NEIGHBOUR = "nemf.matchers.nearest_neighbour:build"
_CHECKPOINT = "nemf.matchers.checkpoint:build"

TABLE = (
    MatcherEntry(
        form=", ".join(pretrained.NAMES),
        about="Neural Matching Fields, weights in the package",
        fits=lambda base: base in pretrained.NAMES,
        builder=_CHECKPOINT,
    ),
    MatcherEntry(
        form="nearest-neighbour:timm/MODEL",
        about="features of a frozen ImageNet network of timm",
        fits=lambda base: base.startswith("nearest-neighbour:timm/"),
        builder=_NEAREST_NEIGHBOUR,
        takes_backbone_weights=True,
    ),
    MatcherEntry(
        form="nearest-neighbour:torchvision/MODEL",
        about="features of a frozen ImageNet network of torchvision",
        fits=lambda base: base.startswith("nearest-neighbour:") and "/" in base,
        builder=_NEAREST_NEIGHBOUR,
        takes_backbone_weights=True,
    ),
    MatcherEntry(
        form="nearest-neighbour:dense-sift",
        about="classical descriptors",
        fits=lambda base: base == "nearest-neighbour:dense-sift",
        builder=_NEAREST_NEIGHBOUR,
    ),
    MatcherEntry(
        form="identity",
        about="every point keeps its relative position",
        fits=lambda base: base == "identity",
        builder="nemf.matchers.identity:build",
        takes_options=False,
    ),
    MatcherEntry(
        form="descriptors:FOLDER",
        about="descriptors of a NeMF checkpoint matched by nearest neighbour, without its matching field",
        fits=lambda base: base.startswith(FOLDER_PREFIX),
        builder="nemf.matchers.descriptors:build",
    ),
    MatcherEntry(
        form="the path or URI of a NeMF checkpoint folder",
        about="the network of that checkpoint, NeMF, LPMFlow or PMNC",
        fits=_is_folder,
        builder=_CHECKPOINT,
    ),
    MatcherEntry(
        form="package.module:factory",
        about="your own nemf.Matcher, from factory(backbone_weights=..., device=...)",
        fits=_is_factory,
        builder="nemf.matchers.factory:build",
        takes_backbone_weights=True,
        takes_options=False,
    ),
)
"""Tried in this order: the first entry that fits a name is its matcher."""

FORMS = ", ".join(entry.form for entry in TABLE)
"""The forms of all matchers' names, for errors."""
HELP = (
    f"Name of the matcher: {', '.join(f'{entry.form} ({entry.about})' for entry in TABLE)}. Options may follow a '?'; "
    "zoom=1 is one of every matcher, a second look at crops of the images."
)
"""The forms with a description of each matcher, for the help of commands."""


def find_entry(name: str) -> MatcherEntry:
    """The entry of the matcher called `name`.

    Raises ValueError listing the forms where there is none, for options of a matcher that takes none, and as
    split_common does.
    """
    base, mark, text = split_common(name)[0].partition("?")
    for entry in TABLE:
        if entry.fits(base):
            if mark and not entry.takes_options:
                raise ValueError(f"matcher {base} takes no options: leave out ?{text}")
            return entry
    hint = f"; what follows the '?' are options, and there is no folder {base!r}" if "?" in name else ""
    raise ValueError(f"there is no matcher {name!r}; there are {FORMS}{hint}")


def split_common(name: str) -> tuple[str, dict[str, str]]:
    """A matcher's name without the options that every matcher takes, and the values of these.

    Raises ValueError for a value that cannot be, and an option given twice.
    """
    base, _, text = name.partition("?")
    common: list[str] = []
    own: list[str] = []
    for part in text.split("&") if text else []:
        (common if part.partition("=")[0] in COMMON_OPTIONS else own).append(part)
    values = parse_options(name, "&".join(common), COMMON_OPTIONS)
    if not values:
        return name, {}
    return (f"{base}?{'&'.join(own)}" if own else base), values


def is_checkpoint(name: str) -> bool:
    """Whether `name` is a NeMF checkpoint: one that ships, any URI, or a path where there is a folder."""
    try:
        return find_entry(name).builder == _CHECKPOINT
    except ValueError:
        return False
