"""Data sets, one per file: each reads its published layout and yields pairs.

A data set called `my-data` is the module `my_data` in this folder, with

    OPTIONS = ("split",)                # the Options it reads, beside root and out

    def pairs(options: Options) -> Iterator[PairRow | Rejected]: ...

Adding a data set is adding one such file; see interface.py for the parts.
"""

import importlib
import pkgutil
from typing import cast

from pipeline.datasets.common.interface import Dataset

_SHARED = {"fields", "inline_images", "instances", "interface", "manifest", "tables"}


def names() -> list[str]:
    """The data sets there are, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED)
    return sorted(name.replace("_", "-") for name in found)


def load(name: str) -> Dataset:
    """The data set called `name`. ValueError, listing those there are, if there is none."""
    if name not in names():
        raise ValueError(f"there is no data set {name!r}; there are: {', '.join(names())}")
    return cast(Dataset, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
