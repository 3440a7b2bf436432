"""The networks that ship with this package: checkpoint folders, one for each name. Imports no torch."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from nemf.search.config import settings_from_json

NAMES = ("nemf-small",)


def folder(name: str) -> Path:
    """The checkpoint folder of a network that ships. Logs the terms of its training data once in a process."""
    _log_terms(name)
    return _folder(name)


def search_settings(name: str) -> dict[str, Any]:
    """The search that a network ships with, as fields of nemf.search.config.SearchConfig; others have their default."""
    return settings_from_json(json.loads((_folder(name) / "config.json").read_text(encoding="utf-8"))["search"])


def _folder(name: str) -> Path:
    return Path(__file__).parent / name


@cache
def _log_terms(name: str) -> None:
    logging.getLogger("nemf").warning(
        "%s was trained on images and annotations that are for research use; its README.md (%s) says which.",
        name,
        _folder(name),
    )
