"""Every path of every command is known to be one, and nemf submit refuses it where it is relative."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from jobs import cli
from jobs.command import _docstrings, flag_of
from jobs.prepare import config_type
from jobs.submit import main
from pipeline.datasets.registry import BUILT_IN
from pipeline.io.uri_field import uri_fields

NO_URIS = {
    ("pack", "name"): "a name, by default the last part of a path",
    ("pack", "commands"): "text of the model card",
    ("evaluate", "protocol"): "package.module:NAME",
    ("prepare", "dataset"): "a name or package.module:function",
    ("match", "points"): "which points",
    ("train", "search"): "settings",
}
REQUIRED = {
    ("field", "point"): "1,2",
    ("evaluate", "protocol"): "spair",
    ("recipe", "name"): "nemf-small",
}
"""Values of required flags that are no path."""


CONFIGS = {name: importlib.import_module(f"jobs.{cli.module_of(name)}").Config for name in cli.names()}
CONFIGS |= {f"prepare {dataset}": config_type(dataset) for dataset in BUILT_IN}
"""Config types by command, and by data set of prepare, each of which has options of its own."""
FLAGS = [(command, name) for command in CONFIGS if command != "submit" for name in uri_fields(CONFIGS[command])]


@pytest.mark.parametrize("command", CONFIGS)
def test_every_field_that_speaks_of_files_is_a_uri(command: str) -> None:
    config = CONFIGS[command]
    speaks = re.compile(r"\b(paths?|folders?|files?|URIs?|manifests?|checkpoint)\b", re.IGNORECASE)
    texts = _docstrings(config)
    names = {
        field.name
        for field in dataclasses.fields(config)
        if "str" in str(field.type) or "Uri" in str(field.type) or "Names" in str(field.type)
        if speaks.search(field.name.replace("_", " ")) or speaks.search(texts.get(field.name, ""))
    }

    assert {"out", "pairs", "root", "matches"} & uri_fields(config).keys() or command == "submit"
    assert names - {name for job, name in NO_URIS if job == command.split()[0]} <= uri_fields(config).keys()


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("command", "relative"), FLAGS)
def test_a_relative_path_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    relative: str,
    joined: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    config = CONFIGS[command]
    command, *dataset = command.split()
    required = REQUIRED | {("prepare", "dataset"): "".join(dataset) or "table"}
    words = []
    for field in dataclasses.fields(config):
        if field.name == relative:
            value = "mine"
        elif field.default is field.default_factory is dataclasses.MISSING:
            value = required.get((command, field.name), f"/shared/{field.name}")
        else:
            continue
        flag = flag_of(config, field.name)
        words += ([f"{flag}={value}"] if joined else [flag, value]) if flag.startswith("--") else [value]

    assert main(["--", command, *words]) == 2

    error = capsys.readouterr().err
    assert error.startswith(f"error: {flag_of(config, relative)} mine is relative to this machine's folder"), error


def test_a_file_of_storage_options_is_refused_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "status", "/shared/run", "--storage-options", "@options.json"]) == 2

    assert capsys.readouterr().err.startswith("error: --storage-options @options.json is relative")


def test_absolute_paths_uris_and_names_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nemf-small").mkdir()
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    words = ["match", "--pairs", "s3://b/p.parquet", "--out", "/shared/run", "--matcher", "nemf-small"]

    with pytest.raises(ValueError, match="which cluster"):
        importlib.import_module("jobs.submit").run(CONFIGS["submit"](job=(*words, "--allow-prefix", "s3://,/images")))
