"""The interface of data sets: their options, and what they yield, which is rows of PAIRS, rejected items and notes."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from pipeline.io.uri_field import Uri

Points = list[tuple[float, float]]
"""K points (x, y) in pixels of the image as shown, that is with its EXIF orientation applied."""
Box = tuple[float, float, float, float]
"""(x_min, y_min, x_max, y_max) in pixels."""

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Suffixes of table files and of folders of table parts."""

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The options of every data set. One with options of its own declares them as a dataclass that inherits these."""

    root: Uri
    """Folder of the data set, or its one file, path or URI."""
    out: Uri
    """The manifest to write, path or URI. Images that come inline are written to OUT_images/ next to it."""

    @property
    def image_root(self) -> str:
        """The folder that relative image URIs start from: the root, or the root's folder where that is a table."""
        return self.root.rpartition("/")[0] if self.root.endswith(TABLE_SUFFIXES) else self.root

    @property
    def inline_images(self) -> str:
        """The folder, next to the manifest, for images that come inline."""
        return f"{self.out.removesuffix('.parquet')}_images"


@dataclass(frozen=True, kw_only=True)
class SplitOptions(DatasetOptions):
    """The options of a data set with splits."""

    split: str | None = None
    """Split to read; may be left out where there is only one."""


@dataclass(frozen=True, kw_only=True)
class UnpairedOptions(DatasetOptions):
    """The options of a data set that may yield images without pairs; `nemf prepare` adds how it is to pair them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One row of PAIRS, whose columns the fields are (schemas.pairs). URIs are absolute."""

    where: str
    """The file and row that the pair comes from, for error messages."""
    pair_id: str
    source_uri: str
    target_uri: str
    category: str | None = None
    target_category: str | None = None
    level: str | None = None
    dataset: str | None = None
    """Name of the data set; None for the name given to `nemf prepare`."""
    split: str | None = None
    source_xy_px: Points | None = None
    target_xy_px: Points | None = None
    keypoint_id: list[str] | None = None
    keypoint_probability: list[float] | None = None
    source_visibility: list[int] | None = None
    target_visibility: list[int] | None = None
    source_all_xy_px: Points | None = None
    source_all_keypoint_id: list[str] | None = None
    target_all_xy_px: Points | None = None
    target_all_keypoint_id: list[str] | None = None
    mirror_keypoint_ids: list[tuple[str, str]] | None = None
    geometry_groups: list[list[str]] | None = None
    target_valid_xy_px: list[Points] | None = None
    source_box_xyxy: Box | None = None
    target_box_xyxy: Box | None = None
    source_other_boxes_xyxy: list[Box] | None = None
    target_other_boxes_xyxy: list[Box] | None = None
    viewpoint_variation: int | None = None
    scale_variation: int | None = None
    truncation: int | None = None
    occlusion: int | None = None
    azimuth_difference: int | None = None
    mirrored: bool | None = None
    source_flow_uri: str | None = None
    target_flow_uri: str | None = None
    flow_format: str | None = None
    source_mask_uri: str | None = None
    target_mask_uri: str | None = None
    seen_in_training: bool | None = None
    source_stated_wh: tuple[int, int] | None = None
    """Width and height of the source image as the annotation states them; no column of PAIRS."""
    target_stated_wh: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedImage:
    """An image that is to be paired with others that look like it, see pipeline.pairing."""

    where: str
    image_id: str
    """Id of the image, unique in the data set; those of two images make a pair_id."""
    uri: str
    """Absolute URI."""
    category: str | None = None
    box_xyxy: Box | None = None
    """Where the object is; None for the whole image."""
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A pair (or an instance, or an image) that cannot be used, and the reason."""

    pair: str
    where: str
    reason: str
    """Short text, equal for all items with the same fault; the summary counts items by it."""
    detail: str
    """The expected and the actual value, as text."""
    by_design: bool = False
    """True if the item is left out by design, which is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Information for the user about data that is used."""

    where: str
    what: str
    """Short text, equal for all notes of the same kind; the summary counts notes by it."""
    count: int = 1


class DataError(ValueError):
    """One pair cannot be used; `reason`, `detail` and `by_design` as in Rejected."""

    def __init__(self, where: str, reason: str, detail: str, *, by_design: bool = False) -> None:
        super().__init__(f"{where}: {reason}: {detail}")
        self.where, self.reason, self.detail, self.by_design = where, reason, detail, by_design


def build_or_reject(
    pair: str, build: Callable[Arguments, Result], *arguments: Arguments.args, **keywords: Arguments.kwargs
) -> Result | Rejected:
    """The result of `build(...)`, or its DataError as a Rejected of `pair`."""
    try:
        return build(*arguments, **keywords)
    except DataError as error:
        return Rejected(
            pair=pair, where=error.where, reason=error.reason, detail=error.detail, by_design=error.by_design
        )


def map_in_threads(build: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of `build(item)` for all items, in order; 16 threads fetch many small files in parallel."""
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=16) as pool:
        while some := list(itertools.islice(remaining, 512)):
            yield from pool.map(build, some)


def choose_split(split: str | None, available: Collection[str], where: str) -> str:
    """`split` if it is available; for None the only available one. Raises ValueError otherwise."""
    listing = ", ".join(sorted(available))
    if split is None:
        if len(available) == 1:
            return next(iter(available))
        raise ValueError(f"{where} has the splits {listing}: say which with --split")
    if split not in available:
        raise ValueError(f"{where} has no split {split!r}; there are: {listing}")
    return split
