"""The versions that are stated, tested and pinned are the same ones."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def _pins(name: str) -> dict[str, Version]:
    """What a file of constraints pins, by the name in small letters."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    return {package.lower(): Version(version) for package, version in found}


def _requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {(found := Requirement(text)).name: found for text in project["dependencies"]}


def test_the_oldest_constraints_are_the_lower_bounds():
    bounds = {
        name: Version(bound.version)
        for name, requirement in _requirements().items()
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    assert bounds == _pins("constraints-oldest.txt")


def test_the_newest_constraints_are_allowed():
    pins = _pins("constraints.txt")
    refused = {name for name, requirement in _requirements().items() if pins[name] not in requirement.specifier}
    assert refused == set()
