"""A folder of images, paired by a rule: all, sequential, star, neighbours, or a text file with two names per line.

all: every image with every later one, in the order of their names; sequential: each with the next; star: the first
with each other; neighbours: each with those that look most like it, see docs/pseudo-labels.md. With --category-folders
the images are in folders below, one for each category, and the rules pair those of one category; neighbours also pairs
images of two, as --neighbours-across says.

In a text file the two names are separated by spaces, or by a tab where names contain spaces; they may be of files in
folders below, img/a.jpg, which are not searched otherwise. Files that are no images are counted and listed.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from pipeline.datasets.common.interface import (
    DataError,
    PairRow,
    Rejected,
    UnpairedImage,
    UnpairedOptions,
    build_or_reject,
)
from pipeline.datasets.common.records import text_lines
from pipeline.io import storage
from pipeline.io.image_formats import readable_suffixes, why_not_read
from pipeline.io.uri_field import UriField

_Images = list[UnpairedImage]
_NEIGHBOURS = "neighbours"
_RULES: dict[str, Callable[[_Images], Iterable[tuple[UnpairedImage, UnpairedImage]]]] = {
    "all": lambda images: itertools.combinations(images, 2),
    "sequential": itertools.pairwise,
    "star": lambda images: ((images[0], image) for image in images[1:]),
}


@dataclass(frozen=True, kw_only=True)
class Options(UnpairedOptions):
    """Options of a folder of images."""

    pairing: Annotated[str, UriField(names=(*_RULES, _NEIGHBOURS), only_these_names=True)] = "all"
    """all pairs; sequential (each image with the next); star (the first with each other); neighbours (each image with
    those that look most like it); or a text file with two names per line."""
    category_folders: bool = False
    """The images are in folders directly below --root, whose names are their categories."""


def pairs(options: Options) -> Iterator[PairRow | Rejected | UnpairedImage]:
    """Rejected files first, then pairs without keypoints, or images for `neighbours`.

    An image's id is its name, with --category-folders FOLDER/NAME; pair_id is made of two.
    """
    rule = _RULES.get(options.pairing)
    if rule is None and options.pairing != _NEIGHBOURS:
        if options.category_folders:
            raise ValueError("--category-folders is for the rules of --pairing; its text file names the files itself")
        yield from _pairs_of_file(options)
        return
    left_out: list[Rejected] = []
    groups: list[_Images] = []
    if options.category_folders:
        left_out += [_beside_folders(uri, options.root) for uri in storage.list_files(options.root, "")]
        for name in sorted(storage.folder_names(options.root)):
            groups.append(_images(storage.join(options.root, name), name, left_out))
    else:
        groups.append(_images(options.root, None, left_out))
    if rule is None:  # neighbours may be of two categories
        groups = [list(itertools.chain.from_iterable(groups))]
    if not any(len(images) >= 2 for images in groups):
        raise ValueError(_too_few(options, sum(map(len, groups)), left_out))
    yield from left_out
    for images in groups:
        if rule is None:
            yield from images
        elif images:
            yield from (_pair(source, target) for source, target in rule(images))


def _images(folder: str, category: str | None, left_out: list[Rejected]) -> _Images:
    """The images directly in a folder, sorted; what else is there is added to `left_out`."""
    names = [PurePosixPath(uri).name for uri in storage.list_files(folder, "")]
    suffixes = readable_suffixes()
    left_out += [_no_image(name, folder) for name in names if not name.lower().endswith(suffixes)]
    left_out += [_folder_below(name, folder) for name in sorted(storage.folder_names(folder))]
    return [
        UnpairedImage(
            where=folder,
            image_id=name if category is None else f"{category}/{name}",
            uri=storage.join(folder, name),
            category=category,
        )
        for name in names
        if name.lower().endswith(suffixes)
    ]


def _no_image(name: str, root: str) -> Rejected:
    detail = f"images end in {' '.join(readable_suffixes())}"
    reason = why_not_read(PurePosixPath(name).suffix.lower())
    return Rejected(pair=name, where=root, reason=reason, detail=detail, by_design=True)


def _folder_below(name: str, root: str) -> Rejected:
    detail = (
        "give its files, as FOLDER/NAME, in a text file for --pairing; or make it --root; or, where folders are "
        "categories, give --category-folders"
    )
    return Rejected(pair=f"{name}/", where=root, reason="folder below, not searched", detail=detail, by_design=True)


def _beside_folders(uri: str, root: str) -> Rejected:
    detail = "with --category-folders images are read from the folders below --root"
    return Rejected(pair=PurePosixPath(uri).name, where=root, reason="file in no folder", detail=detail, by_design=True)


def _too_few(options: Options, n_images: int, left_out: list[Rejected]) -> str:
    where = f"{options.root} has {n_images} images" + (" in folders below" if options.category_folders else "")
    of_one = " of one category" if options.category_folders and n_images >= 2 else ""
    message = f"{where} ({' '.join(readable_suffixes())}); a pair needs two{of_one}"
    counts = Counter(item.reason for item in left_out).most_common()
    return message + (f"; left out: {', '.join(f'{count:,} x {reason}' for reason, count in counts)}" if counts else "")


def _pairs_of_file(options: Options) -> Iterator[PairRow | Rejected]:
    for number, line in enumerate(_lines(options.pairing), start=1):
        if line.strip():
            where = f"{options.pairing}, line {number}"
            yield build_or_reject(where, _pair_of_line, line, where, options.root)


def _lines(pairing: str) -> list[str]:
    try:
        return text_lines(pairing)
    except FileNotFoundError as error:
        names = ", ".join((*_RULES, _NEIGHBOURS))
        raise FileNotFoundError(f"--pairing takes {names} or a text file; there is no file {pairing}") from error


def _pair_of_line(line: str, where: str, root: str) -> PairRow:
    names = [name.strip() for name in (line.split("\t") if "\t" in line else line.split())]
    if len(names) != 2:
        detail = f"expected two names, got {len(names)}; separate names that contain spaces by a tab"
        raise DataError(where, "malformed line", detail)
    source, target = (UnpairedImage(where=where, image_id=name, uri=storage.resolve(name, root)) for name in names)
    return _pair(source, target)


def _pair(source: UnpairedImage, target: UnpairedImage) -> PairRow:
    return PairRow(
        where=source.where,
        pair_id=f"{source.image_id}:{target.image_id}",
        source_uri=source.uri,
        target_uri=target.uri,
        category=source.category,
    )
