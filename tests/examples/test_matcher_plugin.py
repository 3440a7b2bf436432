"""The template of a matcher as a package: it installs, and its own tests pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[2] / "examples" / "matcher_plugin"
ROOT = Path(__file__).parents[2]


def test_the_template_installs_and_its_tests_pass(tmp_path: Path):
    copy = shutil.copytree(PLUGIN, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    installed = tmp_path / "installed"
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    _run("pip", "install", *offline, "--target", str(installed), str(copy), cwd=tmp_path)
    assert (installed / "nemf_patch.py").is_file()
    # out of the folder of the package, so that what is tested is what was installed
    shutil.copytree(copy / "tests", tmp_path / "tests")
    _run("pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path, path=f"{installed}{os.pathsep}{ROOT}")


def _run(*module_and_arguments: str, cwd: Path, path: str = "") -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module_and_arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
