"""A folder of images, paired by a rule: all, sequential, star, or a text file with two names per line.

all: every image with every later one, in the order of their names; sequential: each with the next; star: the first
with each other. In a text file the two names are separated by spaces, or by a tab where names contain spaces.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pipeline.datasets.common.interface import DataError, DatasetOptions, PairRow, Rejected, build_or_reject
from pipeline.datasets.common.records import text_lines
from pipeline.io import storage
from pipeline.io.uri_field import UriField

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")


_Names = Iterable[tuple[str, str]]
_RULES: dict[str, Callable[[list[str]], _Names]] = {
    "all": lambda names: itertools.combinations(names, 2),
    "sequential": itertools.pairwise,
    "star": lambda names: ((names[0], name) for name in names[1:]),
}


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    """How to pair the images of a folder."""

    pairing: Annotated[str, UriField(names=("all", "sequential", "star"))] = "all"
    """all pairs; sequential (each image with the next); star (the first with each other); or a text file with two names
    per line."""


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Pairs without keypoints; pair_id is made of the two file names."""
    rule = _RULES.get(options.pairing)
    if rule is None:
        for number, line in enumerate(_lines(options.pairing), start=1):
            if line.strip():
                where = f"{options.pairing}, line {number}"
                yield build_or_reject(where, _pair_of_line, line, where, options.root)
        return
    files = (PurePosixPath(uri).name for uri in storage.list_files(options.root, ""))
    names = [name for name in files if name.lower().endswith(_IMAGE_SUFFIXES)]
    if len(names) < 2:
        raise ValueError(f"{options.root} has {len(names)} images ({' '.join(_IMAGE_SUFFIXES)}); a pair needs two")
    for source, target in rule(names):
        yield _pair(source, target, options.root, options.root)


def _lines(pairing: str) -> list[str]:
    try:
        return text_lines(pairing)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"--pairing takes {', '.join(_RULES)} or a text file; there is no file {pairing}"
        ) from error


def _pair_of_line(line: str, where: str, root: str) -> PairRow:
    names = [name.strip() for name in (line.split("\t") if "\t" in line else line.split())]
    if len(names) != 2:
        detail = f"expected two names, got {len(names)}; separate names that contain spaces by a tab"
        raise DataError(where, "malformed line", detail)
    return _pair(names[0], names[1], where, root)


def _pair(source: str, target: str, where: str, root: str) -> PairRow:
    return PairRow(
        where=where,
        pair_id=f"{source}:{target}",
        source_uri=storage.resolve(source, root),
        target_uri=storage.resolve(target, root),
    )
