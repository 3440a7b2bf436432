"""The command line that is made of a Config."""

import re
from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

from jobs.command import Names, Uris, flag_of, parse, run_command
from pipeline.io.uri_field import Uri, UriField


@dataclass(frozen=True, kw_only=True)
class Inherited:
    pairs: Uris = ()
    """Manifests."""


@dataclass(frozen=True, kw_only=True)
class Config(Inherited):
    out: tyro.conf.Positional[Uri]
    """Run folder."""
    image_root: Uri | None = None
    """A text of two lines in the source, which the help joins to
    one: it breaks where the terminal ends."""
    start: Annotated[str, UriField(names=("small",))] = "small"
    """Network to start from."""
    kinds: Names = ("all",)
    """Kinds."""


def test_the_help_names_values_and_joins_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    with pytest.raises(SystemExit) as end:
        parse(Config, ["--help"], "try", "Tries.")

    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: nemf try [-h]")
    for line in (
        r"OUT +Run folder\.",
        r"--pairs PATH\|URI\[,\.\.\.\] +Manifests\.",
        r"--image-root PATH\|URI +A text of two lines in the source, which the help joins to one: it breaks where",
        r"--start NAME\|PATH\|URI +Network to start from\.",
        r"--kinds NAME\[,NAME\.\.\.\] +Kinds\.",
        r"--storage-options JSON\|@FILE +Options of file systems by scheme",
    ):
        assert re.search(line, re.sub(r"[│\s]+", " ", text)), line


def test_a_line_becomes_a_config_and_storage_options() -> None:
    line = ["runs/x", "--pairs", "a,b", "--image-root=c", "--kinds", "d", "e", "--storage-options", "@f.json"]

    assert parse(Config, line, "try") == (
        Config(out="runs/x", pairs=("a", "b"), image_root="c", kinds=("d", "e")),
        "@f.json",
    )


def test_flags_and_positional_arguments_have_names() -> None:
    assert [flag_of(Config, name) for name in ("out", "image_root")] == ["OUT", "--image-root"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["x", "--pairs", "a", "--pairs", "b"], "--pairs is given more than once: give all its values to one"),
        (["x", "--image-root", ""], "--image-root: expected a path or URI, got nothing"),
        ([""], "OUT: expected a path or URI, got nothing"),
    ],
)
def test_a_faulty_line_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], line: list[str], message: str
) -> None:
    def run(_config: Config) -> None:
        raise AssertionError("must not run")

    assert run_command(Config, run, line) == 2

    assert capsys.readouterr().err == f"error: {message}\n"
