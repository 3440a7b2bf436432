"""The networks that ship with this package: checkpoint folders, one for each name."""

import logging
from functools import cache
from pathlib import Path

NAMES = ("nemf-small",)


def folder(name: str) -> Path:
    """The checkpoint folder of a network that ships. Says once in a process what its training data allow."""
    _tell_terms(name)
    return Path(__file__).parent / name


@cache
def _tell_terms(name: str) -> None:
    logging.getLogger("nemf").warning(
        "%s was trained on images and annotations that are for research use; its README.md (%s) says which.",
        name,
        Path(__file__).parent / name,
    )
