"""The commands and the Python of the pages do what the pages say, one after another, as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("getting-started", "run-folder", "extend")
"""Each goes on in the folder that those before it left."""
_BLOCK = re.compile(r'^```(bash|python)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Folder(NamedTuple):
    """Where the snippets ran, and what each page printed."""

    path: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder in which every page was followed."""
    path = tmp_path_factory.mktemp("reader")
    command = path / "bin" / "nemf"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jobs.cli "$@"\n')
    command.chmod(0o755)
    return Folder(path, {page: _follow(page, path) for page in PAGES})


def _follow(page: str, folder: Path) -> str:
    """Write the files of the page and run its snippets in the order of the page; returns what they print."""
    script = ["set -e"]
    for number, (language, title, code) in enumerate(_BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text("utf-8"))):
        name = title or f"{page}-{number}.py"
        if language == "python":
            (folder / name).write_text(code)
        if not title:
            script.append(code if language == "bash" else f'"{sys.executable}" {name}')
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, f"{page}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_getting_started_leaves_what_it_says(folder: Folder):
    text = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
    named = re.findall(r"^    (demo/[\w./]+) ", text, re.MULTILINE)
    assert len(named) == 6
    outputs = ["match.png", "report.html", "metrics.parquet", "mine.parquet", "runs/identity/_SUCCESS"]
    assert [name for name in [*named, *outputs] if not (folder.path / name).exists()] == []
    compared = pd.read_parquet(folder.path / "compared.parquet")
    small = compared[(compared["group"] == "all") & (compared["alpha"] == 0.1)]["pck_image"].item()
    metrics = pd.read_parquet(folder.path / "metrics.parquet")
    identity = metrics[(metrics["group"] == "all") & (metrics["alpha"] == 0.1)]["pck_image"].item()
    assert small > 90 > identity
    assert "astronaut" in folder.printed["getting-started"]


def test_the_run_folder_is_as_described(folder: Folder):
    text = (ROOT / "docs" / "run-folder.md").read_text("utf-8")
    named = re.findall(r"^    runs/x/([\w./]+) ", text, re.MULTILINE)
    missing = [name for name in named if not (folder.path / "runs" / "identity" / name).exists()]
    assert missing in ([], ["quarantine/"])
    assert re.search(r"ok +10", folder.printed["run-folder"])
    assert "refused: exit code 2" in folder.printed["run-folder"]


def test_the_parts_of_the_page_on_extending_work(folder: Folder):
    pets = pd.read_parquet(folder.path / "pets.parquet")
    assert pets[["pair_id", "category"]].to_numpy().tolist() == [["chelsea.png:chelsea-warp-0.png", "tabby"]]
    strict = pd.read_parquet(folder.path / "strict.parquet")
    assert set(strict["protocol"]) == {"strict"}
    assert re.search(r"\b200\b.*\b100\b", folder.printed["extend"])
