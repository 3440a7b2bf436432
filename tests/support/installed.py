"""Tests that ask more of a library than its oldest version that pyproject.toml allows."""

from importlib.metadata import version

import pytest
from packaging.version import Version


def needs(library: str, oldest: str, reason: str) -> pytest.MarkDecorator:
    """Skips a test where the installed version of a library is older than this, with what that one does instead."""
    return pytest.mark.skipif(Version(version(library)) < Version(oldest), reason=f"{library} < {oldest} {reason}")
