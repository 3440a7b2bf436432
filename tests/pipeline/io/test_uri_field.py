from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from pipeline.io.uri_field import (
    Uri,
    UriField,
    is_relative,
    uri_fields,
    uris_of,
    with_absolute_uris,
)


@dataclass(frozen=True, kw_only=True)
class _Config:
    out: Uri = "runs/x"
    weights: Uri | None = None
    pairs: tuple[Uri, ...] = ()
    prefix: Annotated[tuple[str, ...], UriField(verbatim_uris=True)] = ()
    matcher: Annotated[str, UriField(names=("small",), prefixes=("descriptors:",))] = "small"
    steps: int = 1
    protocol: str = "spair"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_field_is_found_in_any_type() -> None:
    assert list(uri_fields(_Config)) == ["out", "weights", "pairs", "prefix", "matcher"]


def test_paths_become_absolute_and_all_else_stays(folder: Path) -> None:
    config = _Config(weights="/w.safetensors", pairs=("a.parquet", "s3://b/c.parquet/"), prefix=("s3://", "images"))

    absolute = with_absolute_uris(config)

    assert absolute == _Config(
        out=f"{folder}/runs/x",
        weights="/w.safetensors",
        pairs=(f"{folder}/a.parquet", "s3://b/c.parquet"),
        prefix=("s3://", f"{folder}/images"),
    )


@pytest.mark.parametrize(
    ("matcher", "absolute"),
    [
        ("small", "small"),
        ("./small", "{folder}/small"),
        ("mine?seed=1", "{folder}/mine?seed=1"),
        ("descriptors:mine", "descriptors:{folder}/mine"),
        ("descriptors:small", "descriptors:small"),
        ("descriptors:s3://b/mine", "descriptors:s3://b/mine"),
        ("absent", "absent"),
        ("package.module:factory", "package.module:factory"),
        ("", ""),
    ],
)
def test_a_name_is_told_from_a_path(folder: Path, matcher: str, absolute: str) -> None:
    for name in ("small", "mine"):
        (folder / name).mkdir()

    assert with_absolute_uris(_Config(matcher=matcher)).matcher == absolute.format(folder=folder)


def test_uris_are_the_paths_and_uris_that_are_given(folder: Path) -> None:
    (folder / "mine").mkdir()
    config = _Config(pairs=("a", "s3://b"), matcher="descriptors:mine")

    assert list(uris_of(config)) == [("out", "runs/x"), ("pairs", "a"), ("pairs", "s3://b"), ("matcher", "mine")]


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a path or URI, got nothing"):
        with_absolute_uris(_Config(weights=""))


@pytest.mark.parametrize("location", ["runs/x", "./x", "~/x", "x"])
def test_relative_paths(location: str) -> None:
    assert is_relative(location)


@pytest.mark.parametrize("location", ["/runs/x", "s3://b/x", "file:///x"])
def test_paths_and_uris_that_mean_the_same_everywhere(location: str) -> None:
    assert not is_relative(location)
