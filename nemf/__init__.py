"""Semantic matchers and their mathematics, on torch, without Ray and Arrow."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemf.load import load_matcher
    from nemf.matcher import ImagePair, Match, Matcher

__all__ = ["ImagePair", "Match", "Matcher", "__version__", "load_matcher"]
__version__ = "0.1.0"

_HOMES = {"load_matcher": "nemf.load", "ImagePair": "nemf.matcher", "Match": "nemf.matcher", "Matcher": "nemf.matcher"}


def __getattr__(name: str) -> Any:
    """Imports these names, and with them torch, on first use: a process that only decodes images needs neither."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
