"""PF-WILLOW: test_pairs.csv with imageA, imageB and ten keypoints of each, XA1..XA10, YA1..YA10, XB1.., YB1..

The list also goes by the name test_pairs_pf.csv. It is next to PF-dataset/, which holds the images, or in it; `--root`
is either folder, or the one above. Without a list, every image is paired with every other one of its folder in
PF-dataset/, which is what the list has, and the keypoints come from the .mat file of its name, pts_coord.

The category is the image's folder, the second part of its path ('car(G)'). There are no boxes.
https://www.di.ens.fr/willow/research/proposalflow
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

import numpy as np

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import (
    DataError,
    PairRow,
    Points,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
    map_in_threads,
)
from pipeline.datasets.common.layout import folders_near
from pipeline.datasets.common.mat import NumberedPoints, read_mat, visible_points
from pipeline.datasets.common.records import CsvRow, csv_rows
from pipeline.io import storage

_LISTS = ("test_pairs.csv", "test_pairs_pf.csv", "test_pairs_pf_willow.csv")
_OUTER, _INNER = "pf[-_]?willow", "pf[-_]dataset|image_pairs"
_KEYPOINTS = range(1, 11)
_COLUMNS = ["imageA", "imageB", *(f"{axis}{image}{k}" for image in "AB" for axis in "XY" for k in _KEYPOINTS)]
_IMAGES, _IMAGE_SUFFIXES = "PF-dataset", (".png", ".jpg")


def pairs(options: SplitOptions) -> Iterator[PairRow | Rejected]:
    """Pairs in the order of the list, or of the images' names; pair_id is made of both names and the category."""
    choose_split(options.split, ("test",), "PF-WILLOW")
    folders = list(folders_near(options.root, _OUTER, _INNER))
    for folder, name in itertools.product(folders, _LISTS):
        if name in storage.file_names(folder):
            base = next((folder for folder in folders if _IMAGES in storage.folder_names(folder)), folder)
            for row in csv_rows(storage.join(folder, name), _COLUMNS):
                yield build_or_reject(row.where, _listed_pair, row, base)
            return
    for folder in folders:
        if images := _annotated_images(folder):
            yield from _all_pairs(images)
            return
    raise FileNotFoundError(
        f"{options.root} has neither a list of pairs, {' or '.join(_LISTS[:2])}, nor a folder {_IMAGES} of "
        "CATEGORY/NAME.png with CATEGORY/NAME.mat: is --root PF-WILLOW?"
    )


def _listed_pair(row: CsvRow, root: str) -> PairRow:
    fields = row.fields()
    source, target = PurePosixPath(fields.text("imageA")), PurePosixPath(fields.text("imageB"))
    if len(source.parts) < 3:
        raise DataError(
            row.where, "wrong value", f"field imageA: expected {_IMAGES}/CATEGORY/NAME, got {str(source)!r}"
        )
    return PairRow(
        where=row.where,
        pair_id=f"{source.stem}-{target.stem}:{source.parts[1]}",
        source_uri=storage.join(root, str(source)),
        target_uri=storage.join(root, str(target)),
        category=source.parts[1],
        split="test",
        source_xy_px=_points(fields, "A"),
        target_xy_px=_points(fields, "B"),
        keypoint_id=[str(k) for k in _KEYPOINTS],
    )


def _points(fields: Fields, image: str) -> Points:
    return [(fields.number(f"X{image}{k}"), fields.number(f"Y{image}{k}")) for k in _KEYPOINTS]


def _annotated_images(folder: str) -> dict[str, list[str]]:
    """The images that have a .mat file, in order of their names, by the folder they are in below `folder`."""
    images = {}
    for category in sorted(storage.folder_names(folder)):
        uris = storage.list_files(storage.join(folder, category), "")
        annotated = {uri.removesuffix(".mat") for uri in uris if uri.endswith(".mat")}
        images[category] = [uri for uri in uris if uri.endswith(_IMAGE_SUFFIXES) and uri[:-4] in annotated]
    return {category: uris for category, uris in images.items() if uris}


def _all_pairs(images: dict[str, list[str]]) -> Iterator[PairRow | Rejected]:
    """Every image of a category with every other one, as source and as target."""
    read = functools.cache(_read_points)
    pairs = ((category, *pair) for category, uris in images.items() for pair in itertools.permutations(uris, 2))
    yield from map_in_threads(lambda pair: build_or_reject(f"{pair[1]}:{pair[2]}", _annotated_pair, *pair, read), pairs)


def _annotated_pair(category: str, source: str, target: str, read: Callable[[str], NumberedPoints]) -> PairRow:
    a, b = read(source), read(target)
    shared = [number for number in a if number in b]
    return PairRow(
        where=_mat_of(source),
        pair_id=f"{PurePosixPath(source).stem}-{PurePosixPath(target).stem}:{category}",
        source_uri=source,
        target_uri=target,
        category=category,
        split="test",
        source_xy_px=[a[number] for number in shared],
        target_xy_px=[b[number] for number in shared],
        keypoint_id=shared,
    )


def _read_points(image_uri: str) -> NumberedPoints:
    uri = _mat_of(image_uri)
    xy_px = read_mat(uri, ("pts_coord",)).get("pts_coord")
    if isinstance(xy_px, np.ndarray) and xy_px.ndim == 2 and xy_px.shape[0] in (2, 3):
        xy_px = xy_px[:2].T  # (x and y, and whether it is visible, of K points)
    return visible_points(xy_px, uri, "pts_coord")


def _mat_of(image_uri: str) -> str:
    return f"{image_uri[:-4]}.mat"
