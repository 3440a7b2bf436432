"""A folder of images, paired by a rule: all, sequential, star, or a text file with two names per line.

all: every image with every later one, in the order of their names; sequential: each with the next; star: the first
with each other. In a text file the two names are separated by spaces, or by a tab where names contain spaces; they may
be of files in folders below, img/a.jpg, which the rules do not search. Files that are no images are counted and listed.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pipeline.datasets.common.interface import DataError, DatasetOptions, PairRow, Rejected, build_or_reject
from pipeline.datasets.common.records import text_lines
from pipeline.io import storage
from pipeline.io.image_formats import readable_suffixes, why_not_read
from pipeline.io.uri_field import UriField

_Names = Iterable[tuple[str, str]]
_RULES: dict[str, Callable[[list[str]], _Names]] = {
    "all": lambda names: itertools.combinations(names, 2),
    "sequential": itertools.pairwise,
    "star": lambda names: ((names[0], name) for name in names[1:]),
}


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    """Options of a folder of images."""

    pairing: Annotated[str, UriField(names=("all", "sequential", "star"), only_these_names=True)] = "all"
    """all pairs; sequential (each image with the next); star (the first with each other); or a text file with two names
    per line."""


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Rejected files first, then pairs without keypoints; pair_id is made of the two file names."""
    rule = _RULES.get(options.pairing)
    if rule is None:
        for number, line in enumerate(_lines(options.pairing), start=1):
            if line.strip():
                where = f"{options.pairing}, line {number}"
                yield build_or_reject(where, _pair_of_line, line, where, options.root)
        return
    names = [PurePosixPath(uri).name for uri in storage.list_files(options.root, "")]
    suffixes = readable_suffixes()
    images = [name for name in names if name.lower().endswith(suffixes)]
    left_out = [_no_image(name, options.root) for name in names if not name.lower().endswith(suffixes)]
    left_out += [_folder_below(name, options.root) for name in sorted(storage.folder_names(options.root))]
    if len(images) < 2:
        raise ValueError(_too_few(options.root, len(images), left_out))
    yield from left_out
    for source, target in rule(images):
        yield _pair(source, target, options.root, options.root)


def _no_image(name: str, root: str) -> Rejected:
    detail = f"images end in {' '.join(readable_suffixes())}"
    reason = why_not_read(PurePosixPath(name).suffix.lower())
    return Rejected(pair=name, where=root, reason=reason, detail=detail, by_design=True)


def _folder_below(name: str, root: str) -> Rejected:
    detail = "give its files, as FOLDER/NAME, in a text file for --pairing; or make it --root"
    return Rejected(pair=f"{name}/", where=root, reason="folder below, not searched", detail=detail, by_design=True)


def _too_few(root: str, n_images: int, left_out: list[Rejected]) -> str:
    message = f"{root} has {n_images} images ({' '.join(readable_suffixes())}); a pair needs two"
    counts = Counter(item.reason for item in left_out).most_common()
    return message + (f"; left out: {', '.join(f'{count:,} x {reason}' for reason, count in counts)}" if counts else "")


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
