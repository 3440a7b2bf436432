"""Matchers of the user's own: 'package.module:factory' names a function that returns one."""

import inspect

import torch

from nemf.matcher import Matcher
from nemf.plugins import load_attribute


def build(name: str, *, backbone_weights: str | None, device: torch.device) -> Matcher:
    """The Matcher that factory(backbone_weights=..., device=...) returns; ValueError where there is none."""
    module_name, _, factory_name = name.partition(":")
    factory = load_attribute(name, f"matcher {name!r}")
    if not callable(factory):
        raise ValueError(f"matcher {name!r}: {module_name} has no function {factory_name}")
    try:
        inspect.signature(factory).bind(backbone_weights=backbone_weights, device=str(device))
    except (TypeError, ValueError) as error:
        raise ValueError(f"matcher {name!r}: it must take backbone_weights=... and device=...: {error}") from error
    try:
        matcher = factory(backbone_weights=backbone_weights, device=str(device))
    except Exception as error:  # the user's function may raise anything
        raise ValueError(
            f"matcher {name!r}: a factory is called with (backbone_weights=..., device=...), and {factory_name} then "
            f"raised {type(error).__name__}: {error}; NEMF_TRACEBACK=1 shows where"
        ) from error
    missing = [member for member in ("name", "fingerprint", "match_batch") if not hasattr(matcher, member)]
    if missing:
        raise ValueError(
            f"matcher {name!r}: {factory_name} returned a {type(matcher).__name__} without {', '.join(missing)}; "
            "it must return a nemf.Matcher"
        )
    return matcher
