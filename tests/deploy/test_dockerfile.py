"""The Dockerfile, without building it: hadolint, and the names that it must share with the project."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.cluster.ray_jobs import STOP_SECONDS

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture
def lines() -> list[str]:
    """The Dockerfile's instructions, one a line."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stdout


def test_it_copies_every_package_and_no_more(lines: list[str]) -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = [word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]]

    assert {name for name in copied if (ROOT / name).is_dir()} == {package.removesuffix("*") for package in packages}
    assert [name for name in copied if not (ROOT / name).exists()] == []
    kept = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in kept if line.startswith("!")}


def test_it_installs_what_was_tested_and_runs_as_somebody(lines: list[str]) -> None:
    assert any("pip install" in line and "--constraint constraints.txt" in line for line in lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    assert any(f"RAY_JOB_STOP_WAIT_TIME_S={STOP_SECONDS}" in line for line in lines)
