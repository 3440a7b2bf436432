import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from nemf.matchers.table import FORMS, HELP, TABLE, find_entry, is_checkpoint

PAGE = Path(__file__).parents[3] / "docs" / "matchers.md"


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.form)
def test_every_builder_takes_the_same_arguments(entry):
    module_name, _, function_name = entry.builder.partition(":")
    build = getattr(importlib.import_module(module_name), function_name)
    assert list(inspect.signature(build).parameters) == ["name", "backbone_weights", "device"]


def test_the_first_entry_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("trained", "identity", "nemf-small"):
        Path(folder).mkdir()
    forms = {
        "nemf-small?seed=1": "nemf-small",
        "./nemf-small": "the path or URI of a NeMF checkpoint folder",
        "identity": "identity",
        "nearest-neighbour:timm/resnet50?window=0": "nearest-neighbour:timm/MODEL",
        "nearest-neighbour:torchvision/resnet50": "nearest-neighbour:torchvision/MODEL",
        "nearest-neighbour:dense-sift": "nearest-neighbour:dense-sift",
        "descriptors:trained": "descriptors:FOLDER",
        "trained?seed=1": "the path or URI of a NeMF checkpoint folder",
        "s3://bucket/trained": "the path or URI of a NeMF checkpoint folder",
        "own_matchers:make": "package.module:factory",
    }
    assert {name: find_entry(name).form for name in forms} == forms


def test_names_of_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("trained", "identity"):
        Path(folder).mkdir()
    assert all(map(is_checkpoint, ["nemf-small", "trained", "trained?seed=1", "s3://bucket/trained"]))
    others = ["", "?seed=1", "nemf-large", "nearest-neighbour:dense-sift", "own_matchers:make", "identity"]
    assert not any(map(is_checkpoint, others))


def test_people_read_the_whole_table():
    page = PAGE.read_text()
    for entry in TABLE:
        assert entry.form in FORMS
        assert f"{entry.form} ({entry.about})" in HELP
    for form in ("nemf-small", "nearest-neighbour:timm/MODEL", "identity", "descriptors:FOLDER"):
        assert f"`{form}`" in page


def test_names_need_no_torch():
    """The help of a command lists matchers, reads their options and judges settings without loading torch."""
    modules = "nemf, nemf.matchers.table, nemf.options, nemf.pretrained, nemf.search.config"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
