"""The package as it is installed: a wheel holds all that its commands read."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from make import noise_rgb
from PIL import Image

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "nemf", "pipeline", "jobs")
NOT_CODE = {".json", ".md", ".safetensors", ".html", ".csv"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy: a build writes into its folder."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(out), str(source)], check=True)
    (file,) = out.glob("*.whl")
    return file


def test_it_holds_every_file_that_the_code_reads(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if Path(name).suffix in NOT_CODE}
    files = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.suffix in NOT_CODE
    }
    assert files == {name for name in held if not name.partition("/")[0].endswith(".dist-info")}
    assert "nemf/pretrained/nemf-small/model.safetensors" in files


def test_nemf_pair_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment; the project itself is the wheel's."""
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    for name in ("a.png", "b.png"):
        Image.fromarray(noise_rgb(0, (48, 64))).save(empty / name)
    command = "import nemf, jobs.cli; assert nemf.__file__.startswith({!r}), nemf.__file__; jobs.cli.main()"
    pair = ["pair", "a.png", "b.png", "--points", "30,20", "--json", "--out", "match.png"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])}
    done = subprocess.run(
        [sys.executable, "-c", command.format(str(installed)), *pair],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (point,) = json.loads(done.stdout)["points"]
    assert (empty / "match.png").stat().st_size > 1000
    assert point["query_xy_px"] == [30.0, 20.0]
