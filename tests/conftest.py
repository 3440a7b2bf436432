"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import ray_head


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference tensors; tests that need it are skipped without it."""
    folder = os.environ.get("NEMF_SHARED")
    if not folder:
        pytest.skip("needs real data: set NEMF_SHARED to the folder that holds data/, weights/ and golden/")
    return Path(folder)


@pytest.fixture(scope="session")
def _ray_of_the_session() -> Iterator[str]:
    support = Path(__file__).parent / "support"
    path = os.pathsep.join([str(support), os.environ.get("PYTHONPATH", "")])
    with ray_head(dashboard=False, PYTHONPATH=path) as head:
        yield head.address


@pytest.fixture(scope="module")
def shared_ray(_ray_of_the_session: str) -> Iterator[None]:
    """A Ray of two CPUs that jobs join and leave as it is, started once for all test files of a process.

    Jobs join it by RAY_ADDRESS; with --address local they start their own. Its processes can import from
    tests/support.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", _ray_of_the_session)
        yield
