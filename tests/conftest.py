"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference tensors; tests that need it are skipped without it."""
    folder = os.environ.get("NEMF_SHARED")
    if not folder:
        pytest.skip("needs real data: set NEMF_SHARED to the folder that holds data/, weights/ and golden/")
    return Path(folder)
