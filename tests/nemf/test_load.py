import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from nemf import checkpoints, load_matcher
from nemf.load import find_device
from nemf.matchers.table import is_checkpoint
from nemf.matchers.zoom import ZoomMatcher
from nemf.model.build import build
from nemf.model.presets import nemf_small
from nemf.search.config import SearchConfig

SIFT = "nearest-neighbour:dense-sift"

FACTORY = """
from nemf import Matcher

class Mine(Matcher):
    def __init__(self, **arguments):
        self.name, self.fingerprint, self.arguments = "mine", "1", arguments

    def match_batch(self, pairs):
        return []

make = Mine
number = 3

def broken(**arguments):
    return object()

def raises(backbone_weights, device):
    raise KeyError("weights")

class Plain(Matcher):
    name, fingerprint = "plain", "1"

    def match_batch(self, pairs):
        return []

def alone():
    return Plain()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, written once."""
    folder = tmp_path_factory.mktemp("checkpoints") / "trained"
    checkpoints.save(folder, build(nemf_small()), nemf_small())
    return folder


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_matchers.py").write_text(FACTORY)
    (tmp_path / "own_unfinished.py").write_text("import no_such_library\n")
    (tmp_path / "own_typo.py").write_text("import os\ndef make(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_built_by_name():
    matcher = load_matcher(f"{SIFT}?window=0&image_size=160", device="cpu")
    assert matcher.name == f"{SIFT}?window=0&image_size=160"
    assert (matcher.window, matcher.image_size) == (0, 160)
    assert load_matcher(SIFT).fingerprint == load_matcher(f"{SIFT}?window=0.1").fingerprint != matcher.fingerprint


def test_built_from_a_weights_file(mobilenet_file: Path):
    matcher = load_matcher("nearest-neighbour:timm/mobilenetv1_100", backbone_weights=str(mobilenet_file))
    assert matcher.levels == [2]  # stride 16 of 4, 8, 16


def test_built_from_a_checkpoint_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch):
    fs = fsspec.filesystem("memory")
    for file in folder.iterdir():
        fs.pipe_file(f"/bucket/trained/{file.name}", file.read_bytes())
    monkeypatch.chdir(folder.parent)
    names = ["trained", str(folder), f"{folder}/", folder.as_uri(), "memory://bucket/trained"]
    matchers = [load_matcher(name, device="cpu") for name in names]
    assert [matcher.name for matcher in matchers] == names
    assert len({matcher.fingerprint for matcher in matchers}) == 1
    assert all(is_checkpoint(name) for name in names)


def test_the_search_is_configured_by_the_name(folder: Path):
    query = "patchmatch_steps=3&refine_lr=1e-2&seed=-7&neighbour_offset=true&positional_gradient=false&grid_strides=4,1"
    matcher = load_matcher(f"{folder}?{query}", device="cpu")
    assert matcher.name == f"{folder}?{query}"
    assert matcher.config == SearchConfig(
        patchmatch_steps=3, refine_lr=0.01, seed=-7, neighbour_offset=True, grid_strides=(4, 1)
    )
    assert matcher.fingerprint != load_matcher(str(folder), device="cpu").fingerprint


def test_a_checkpoints_descriptors_are_a_matcher(folder: Path):
    """Without any training they find a corner of the same picture; they answer for the backbone and the neck only."""
    matcher = load_matcher(f"descriptors:{folder}", device="cpu")
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    points_px = np.array([[0, 0], [40, 20], [95, 63]], np.float32)

    match = matcher.match(rgb, rgb, points_px)

    assert np.abs(match.reference_xy_px - points_px).max() < 4
    assert (matcher.name, matcher.image_size) == (f"descriptors:{folder}", 320)
    smaller = load_matcher(f"descriptors:{folder}?image_size=128&window=0", device="cpu")
    assert (smaller.image_size, smaller.window) == (128, 0)
    assert matcher.fingerprint not in (smaller.fingerprint, load_matcher(str(folder), device="cpu").fingerprint)
    with pytest.raises(FileNotFoundError, match="checkpoint folder nowhere: there is no such folder"):
        load_matcher("descriptors:nowhere")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("steps=3", "option 'steps' is unknown; there are patchmatch_steps, refine_steps, "),
        ("seed=1&seed=1", "option 'seed' is given twice; there are patchmatch_steps, "),
        ("seed", "option seed must be a whole number; got ''"),
        ("patchmatch_steps=1.5", "option patchmatch_steps must be a whole number; got '1.5'"),
        ("refine_lr=nan", "option refine_lr must be a finite number; got 'nan'"),
        ("neighbour_offset=1", "option neighbour_offset must be one of true, false; got '1'"),
        ("grid_strides=4,x", "option grid_strides must be a list such as 4,1, each a whole number; got '4,x'"),
        ("patchmatch_steps=-1", "patchmatch_steps=-1: patchmatch_steps must be a whole number from 0 to 1000; got -1"),
        ("precision=float16", "option precision must be one of float32, bfloat16; got 'float16'"),
    ],
)
def test_options_that_will_not_do(folder: Path, query: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_matcher(f"{folder}?{query}", device="cpu")


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    "name", ["identity", "own_matchers:make", f"{SIFT}?image_size=160", "CHECKPOINT?seed=3", "descriptors:CHECKPOINT"]
)
def test_every_matcher_takes_a_second_look(folder: Path, name: str):
    name = name.replace("CHECKPOINT", str(folder))
    plain = load_matcher(name, device="cpu")
    zoomed = load_matcher(f"{name}{'&' if '?' in name else '?'}zoom=1", device="cpu")
    assert isinstance(zoomed, ZoomMatcher)
    assert (type(zoomed.matcher), zoomed.matcher.fingerprint) == (type(plain), plain.fingerprint)
    assert zoomed.name == f"{name}{'&' if '?' in name else '?'}zoom=1"
    assert zoomed.fingerprint != plain.fingerprint
    never = load_matcher(f"{name}{'&' if '?' in name else '?'}zoom=0", device="cpu")
    assert (type(never), never.fingerprint) == (type(plain), plain.fingerprint)


@pytest.mark.usefixtures("own_module")
def test_built_by_a_factory_of_ones_own():
    matcher = load_matcher("own_matchers:make", backbone_weights="w.safetensors", device="cpu")
    assert matcher.arguments == {"backbone_weights": "w.safetensors", "device": "cpu"}


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "there is no matcher ''; there are nemf-small, nearest-neighbour:timm/MODEL"),
        ("trained", "there is no matcher 'trained'; there are nemf-small, nearest-neighbour:timm/MODEL"),
        ("large?nemf", "there is no matcher 'large.nemf'; .* the '.' are options, and there is no folder 'large'"),
        ("nemf://small", "checkpoint folder nemf://small: Protocol not known: nemf"),
        ("nearest-neighbour:sift", "there is no matcher 'nearest-neighbour:sift'; there are .*dense-sift"),
        ("nearest-neighbour:timm/mobilnet", "timm has no model 'mobilnet'"),
        (f"{SIFT}?sharpness=3", "option 'sharpness' is unknown; there are window, temperature, image_size"),
        (f"{SIFT}?image_size=64&image_size=64", "option 'image_size' is given twice"),
        (f"{SIFT}?image_size=big", "option image_size must be a whole number; got 'big'"),
        (f"{SIFT}?window=all", "option window must be a finite number; got 'all'"),
        ("no_such_package.module:make", "there is no module 'no_such_package' on Python's path"),
        ("own_matchers:nothing", "own_matchers has no function nothing"),
        ("own_matchers:number", "own_matchers has no function number"),
        ("own_matchers:make?seed=1", r"matcher own_matchers:make takes no options: leave out \?seed=1"),
        ("identity?zoom=2", r"identity\?zoom=2: option zoom must be one of 0, 1; got '2'"),
        (f"{SIFT}?zoom=1&zoom=1", "option 'zoom' is given twice"),
        (
            f"{SIFT}?zom=1",
            "option 'zom' is unknown; there are window, temperature, image_size, fit, precision, layers, norm, zoom",
        ),
        ("identity?zoom=1&seed=1", r"matcher identity takes no options: leave out \?seed=1"),
        ("large?zoom=1", "there is no matcher 'large.zoom=1'; .*, and there is no folder 'large'"),
        ("identity?", r"matcher identity takes no options: leave out \?$"),
        ("own_matchers:broken", "broken returned a object without name, fingerprint, match_batch"),
        ("own_matchers:raises", r"'own_matchers:raises': a factory is called with \(.*raises then raised KeyError"),
        (
            "own_matchers:Plain",
            r"a factory is called with \(backbone_weights=\.\.\., device=\.\.\.\), and Plain then raised TypeError",
        ),
        ("own_matchers:alone", r"it must take backbone_weights=\.\.\. and device=\.\.\.: got an unexpected"),
        ("own_typo:make", r"'own_typo:make': own_typo cannot be imported \(SyntaxError: .*own_typo\.py, line 2\)\)"),
        (
            "own_unfinished:make",
            "'own_unfinished:make': there is no module 'no_such_library' on Python's path, which own_unfinished",
        ),
    ],
)
def test_names_that_will_not_do(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_matcher(name)


@pytest.mark.parametrize("name", [SIFT, "identity", "CHECKPOINT", "descriptors:CHECKPOINT"])
def test_weights_for_a_matcher_that_takes_none(folder: Path, name: str):
    name = name.replace("CHECKPOINT", str(folder))
    said = rf"{re.escape(name)} takes no backbone's weights: leave out --backbone-weights x\.safetensors"
    with pytest.raises(ValueError, match=said):
        load_matcher(name, backbone_weights="x.safetensors")


def test_devices():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda")
    for unknown in ("gpu", "meta", "cuda:x"):
        with pytest.raises(ValueError, match=f"device must be auto, cpu, cuda or cuda:N; got '{unknown}'"):
            find_device(unknown)
    with pytest.raises(ValueError, match=r"device cuda:99: this machine has \d+ CUDA devices"):
        find_device("cuda:99")
