"""Files and modules that docs, docstrings and comments name are there: a rename carries the texts along."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "deploy", "docs", "examples", "jobs", "nemf", "pipeline", "schemas", "tests")
_PATH = re.compile(rf"(?<![\w/.<-])(?:{'|'.join(PACKAGES)})/[\w/-]+(?:\.\w+)?")
_MODULE = re.compile(r"(?<![\w./@-])(?:jobs|nemf|pipeline|schemas|benchmarks)(?:\.(?!__)[a-z_]\w*|\.[A-Z][a-z]\w*)+")
_HISTORY = "CHANGELOG.md"


def texts() -> Iterator[Path]:
    """Every text of the project that may name its files: Python, Markdown, TOML, YAML; not the history of changes."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    files = [ROOT / name for name in listed] or [file for name in PACKAGES for file in (ROOT / name).rglob("*")]
    suffixes = {".py", ".md", ".toml", ".yaml"}
    return (file for file in files if file.suffix in suffixes and file.name != _HISTORY and file.is_file())


def mentions(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """(file, name) of everything that looks like `pattern` in the texts."""
    for file in texts():
        if file == Path(__file__):
            continue
        for match in pattern.finditer(file.read_text("utf-8")):
            yield str(file.relative_to(ROOT)), match.group().rstrip("/.")


def is_module_or_attribute(name: str) -> bool:
    """Whether the dotted `name` is a module of the project, or something that one of its modules names."""
    place = ROOT
    for number, word in enumerate(words := name.split(".")):
        if (place / word).is_dir():
            place /= word
        elif (module := place / f"{word}.py").is_file():
            rest = words[number + 1 :]
            return not rest or re.search(rf"\b{rest[0]}\b", module.read_text("utf-8")) is not None
        else:
            init = place / "__init__.py"
            return init.is_file() and re.search(rf"\b{word}\b", init.read_text("utf-8")) is not None
    return True


def test_paths_in_texts_exist():
    missing = {(file, name) for file, name in mentions(_PATH) if not list(ROOT.glob(f"{name}*"))}

    assert missing == set()


def test_modules_in_texts_exist():
    missing = {(file, name) for file, name in mentions(_MODULE) if not is_module_or_attribute(name)}

    assert missing == set()


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("nemf.load_matcher", True),
        ("pipeline.runs.parts", True),
        ("pipeline.runs.parts.write_part", True),
        ("pipeline.parts", False),
        ("pipeline.runs.parts.write_nothing", False),
    ],
)
def test_a_name_is_looked_up(name: str, there: bool):
    assert is_module_or_attribute(name) == there
