"""What a data set is asked and what it answers."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, ParamSpec, Protocol, TypeVar

from pipeline.io.uri_field import Uri, UriField

Points = list[tuple[float, float]]
"""K points (x, y) in pixels of the image as it is stored."""
Box = tuple[float, float, float, float]
"""(x_min, y_min, x_max, y_max) in pixels."""

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to read. A data set's OPTIONS names those it reads beside `root` and `out`."""

    root: Uri
    """Folder of the data set, path or URI (animal-pose, photographs: of Parquet files, or one)."""
    out: Uri
    """The manifest to write, path or URI. Images that come inline are written beside it, to OUT_images/."""
    split: str | None = None
    """Which split; may be left out where there is only one."""
    annotations: Uri | None = None
    """coco: the JSON file. table: your own pairs, a .csv or .parquet file."""
    training_list: Uri | None = None
    """pf-pascal: the list of training pairs. Pairs of the same two images are flagged as seen in training."""
    pairs_per_category: int = 1000
    """coco, animal-pose: at most this many pairs of each category."""
    seed: int = 0
    """coco, animal-pose: another seed draws other pairs."""
    pairing: Annotated[str, UriField(names=("all", "sequential", "star"))] = "all"
    """folder: all pairs; sequential (each image with the next); star (the first with each other); or a text file
    with two names per line."""

    @property
    def image_root(self) -> str:
        """The folder that relative image URIs start from: the root, or the root's folder where that is a table."""
        return self.root.rpartition("/")[0] if self.root.endswith((".csv", ".parquet")) else self.root

    @property
    def inline_images(self) -> str:
        """The folder, beside the manifest, for images that come inline."""
        return f"{self.out.removesuffix('.parquet')}_images"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One row of PAIRS; fields as there. URIs are absolute."""

    where: str
    """The file, and row of it, that says so: for error messages."""
    pair_id: str
    source_uri: str
    target_uri: str
    category: str | None = None
    dataset: str | None = None
    """None: the data set's own name."""
    split: str | None = None
    source_xy_px: Points | None = None
    target_xy_px: Points | None = None
    keypoint_id: list[str] | None = None
    source_box_xyxy: Box | None = None
    target_box_xyxy: Box | None = None
    viewpoint_variation: int | None = None
    scale_variation: int | None = None
    truncation: int | None = None
    occlusion: int | None = None
    seen_in_training: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A pair (or an instance, or an image) that cannot be used, and why."""

    pair: str
    where: str
    reason: str
    """Short and the same for all of its kind: what the summary counts."""
    detail: str
    """What was expected and what came."""
    by_design: bool = False
    """Left out on purpose: never an error."""


class DataError(ValueError):
    """One pair cannot be used; `reason` and `detail` as in Rejected."""

    def __init__(self, where: str, reason: str, detail: str) -> None:
        super().__init__(f"{where}: {reason}: {detail}")
        self.where, self.reason, self.detail = where, reason, detail


class Dataset(Protocol):
    """What a data set's module holds."""

    OPTIONS: tuple[str, ...]

    def pairs(self, options: Options) -> Iterator[PairRow | Rejected]:
        """Every pair, in an order that depends on the options and the files' content alone.

        Raises ValueError or FileNotFoundError when there is nothing to read at all (no such split, no list of pairs).
        """
        ...


def attempt(
    pair: str, build: Callable[Arguments, Result], *arguments: Arguments.args, **keywords: Arguments.kwargs
) -> Result | Rejected:
    """`build(...)`, or its DataError as a Rejected `pair`."""
    try:
        return build(*arguments, **keywords)
    except DataError as error:
        return Rejected(pair=pair, where=error.where, reason=error.reason, detail=error.detail)


def in_threads(build: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`build(item)` for every item, in order. Many small files over a network are fetched side by side."""
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=16) as pool:
        while some := list(itertools.islice(remaining, 512)):
            yield from pool.map(build, some)


def choose_split(asked: str | None, available: Collection[str], where: str) -> str:
    """The split to read: the one asked for, or the only one there is."""
    listing = ", ".join(sorted(available))
    if asked is None:
        if len(available) == 1:
            return next(iter(available))
        raise ValueError(f"{where} has the splits {listing}: say which with --split")
    if asked not in available:
        raise ValueError(f"{where} has no split {asked!r}; there are: {listing}")
    return asked
