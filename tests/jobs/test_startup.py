"""Imports of a command at its start: help and `nemf status` import none of the heavy packages."""

import json
import subprocess
import sys
from pathlib import Path

from make import match_rows, run_description, write_pairs

from jobs import cli
from pipeline.datasets.registry import BUILT_IN
from pipeline.runs.folder import open_run
from pipeline.runs.parts import write_part

HEAVY = ["torch", "torchvision", "timm", "kornia", "ray", "matplotlib", "scipy", "skimage", "tensorboard", "faiss"]
RUN_EACH = """
import contextlib, io, json, sys
from jobs import cli

heavy, commands = json.loads(sys.argv[1])
for words in commands:
    before = set(sys.modules)
    sys.argv = ["nemf", *words]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            code = cli.main()
        except SystemExit as end:
            code = end.code
    opened = [name for name in heavy if name in sys.modules and name not in before]
    print(json.dumps([code, bool(printed.getvalue()), opened]))
"""


def test_help_and_status_open_no_heavy_package(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [])
    run = open_run(str(tmp_path / "run"), run_description(pairs, out=str(tmp_path / "run"), matcher="identity"))
    write_part(run.out, match_rows({"pair_id": "a"}))
    commands = [["--help"], *([name, "--help"] for name in cli.names()), ["status", run.out]]
    commands += [["prepare", "--dataset", name, "--help"] for name in BUILT_IN]

    finished = subprocess.run(
        [sys.executable, "-c", RUN_EACH, json.dumps([HEAVY, commands])], capture_output=True, text=True, check=False
    )

    assert finished.returncode == 0, finished.stderr
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    expected = [[" ".join(words), 0, True, []] for words in commands]
    assert [[" ".join(words), *answer] for words, answer in zip(commands, answers, strict=True)] == expected
