"""Environments of other software, one for every set of packages, below .venv/readers."""

import subprocess
import sys
import venv
from pathlib import Path


def python_with(*packages: str) -> Path:
    """The Python of an environment that has these packages; they are installed from PyPI once."""
    environment = Path(sys.prefix) / "readers" / "-".join(packages).replace("==", "").replace("<", "below")
    python = environment / "bin" / "python"
    if not (environment / "installed").exists():
        venv.create(environment, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (environment / "installed").touch()
    return python
