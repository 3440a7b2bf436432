"""Matchers of the user's own: 'package.module:factory' names a function that returns one."""

import importlib
import inspect

import torch

from nemf.matcher import Matcher


def build(name: str, *, backbone_weights: str | None, device: torch.device) -> Matcher:
    """The Matcher that factory(backbone_weights=..., device=...) returns; ValueError where there is none."""
    module_name, _, factory_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"matcher {name!r}: there is no module {error.name!r} on Python's path") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ValueError(f"matcher {name!r}: {module_name} has no function {factory_name}")
    try:
        inspect.signature(factory).bind(backbone_weights=backbone_weights, device=str(device))
    except (TypeError, ValueError) as error:
        raise ValueError(f"matcher {name!r}: it must take backbone_weights=... and device=...: {error}") from error
    matcher = factory(backbone_weights=backbone_weights, device=str(device))
    missing = [member for member in ("name", "fingerprint", "match_batch") if not hasattr(matcher, member)]
    if missing:
        raise ValueError(
            f"matcher {name!r}: {factory_name} returned a {type(matcher).__name__} without {', '.join(missing)}; "
            "it must return a nemf.Matcher"
        )
    return matcher
