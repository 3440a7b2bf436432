"""CUB-200-2011: birds with 15 parts; pairs of a list of image ids, or drawn within a class or across classes.

`--root` is CUB_200_2011/ or the folder that holds it. A list has one pair per line, "source_id target_id", with the ids
of images.txt; without one, pairs are drawn from the seed. keypoint_id is the part's name in parts/parts.txt. Points and
boxes stay as published. https://www.vision.caltech.edu/datasets/cub_200_2011
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.instances import Instance, SamplingOptions, sample_pairs
from pipeline.datasets.common.interface import Box, DataError, Note, PairRow, Rejected, SplitOptions, build_or_reject
from pipeline.datasets.common.layout import folders_near
from pipeline.datasets.common.records import text_lines
from pipeline.io import storage
from pipeline.io.uri_field import Uri

_SPLITS = {"train": "1", "test": "0"}
_ANY_CLASS = "bird"


@dataclass(frozen=True, kw_only=True)
class Options(SplitOptions, SamplingOptions):
    """Options of the data set CUB-200-2011. `--split` train or test, of train_test_split.txt, keeps pairs of its images
    alone; without it, all images are read."""

    list: Uri | None = None
    """A list of pairs, path or URI, with "source_id target_id" in each line; without it, pairs are drawn."""
    limit: int | None = None
    """Only the first so many lines of the list."""
    across: bool = False
    """Draw pairs across classes: all birds are one category, 'bird'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bird:
    """One image."""

    where: str
    image_id: str
    uri: str
    category: str
    box_xyxy: Box
    xy_px: dict[str, tuple[float, float]]
    """The visible parts by name."""


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Rejected images first where pairs are drawn, then pairs; those of a list in its order."""
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    if options.list and options.across:
        raise ValueError("--across is for drawing pairs; --list already says which pairs there are")
    if options.limit is not None and not options.list:
        raise ValueError("--limit is for --list; the number of drawn pairs is --pairs-per-category")
    if options.split not in (None, *_SPLITS):
        raise ValueError(f"{options.root} has no split {options.split!r}; there are: {', '.join(sorted(_SPLITS))}")
    files = _Files(_folder(options.root), options.split)
    yield from (_listed if options.list else _drawn)(files, options)


def _folder(root: str) -> str:
    """The folder with images.txt."""
    for folder in folders_near(root, r"cub[-_]200[-_]2011", "images|parts"):
        if storage.is_file(storage.join(folder, "images.txt")):
            return folder
    raise FileNotFoundError(f"{root} has no images.txt, nor has a folder CUB_200_2011 in it: is --root CUB_200_2011?")


class _Files:
    """The content of the text files. A malformed line rejects the images that need it, and no others."""

    def __init__(self, folder: str, split: str | None) -> None:
        self.folder, self.split = folder, split
        self.images_txt = storage.join(folder, "images.txt")
        self.names = _Lines(self.images_txt, 1)
        self.classes = _Lines(storage.join(folder, "classes.txt"), 1)
        self.labels = _Lines(storage.join(folder, "image_class_labels.txt"), 1)
        self.boxes = _Lines(storage.join(folder, "bounding_boxes.txt"), 4)
        self.locations = _Lines(storage.join(folder, "parts", "part_locs.txt"), 4)
        self.splits = _Lines(storage.join(folder, "train_test_split.txt"), 1) if split else None
        self.parts = _part_names(storage.join(folder, "parts", "parts.txt"))
        self.mirror_ids = _mirror_ids(list(self.parts.values()))

    def in_split(self, image_id: str) -> bool:
        """Whether the image belongs to the split that was asked for. DataError if the files do not say."""
        return self.splits is None or self.splits.one(image_id) == [_SPLITS[str(self.split)]]

    def bird(self, image_id: str) -> _Bird:
        """DataError if one of the image's lines is absent or malformed."""
        (name,) = self.names.one(image_id)
        (class_id,) = self.labels.one(image_id)
        (category,) = self.classes.one(class_id)
        where = f"{self.boxes.uri}, id {image_id}"
        box_xywh = _numbers(self.boxes.one(image_id), where)
        return _Bird(
            where=f"{self.images_txt}, image {image_id}",
            image_id=image_id,
            uri=storage.join(self.folder, "images", name),
            category=category,
            box_xyxy=Fields({"box": box_xywh}, where).box_xywh("box"),
            xy_px=self._visible(image_id),
        )

    def _visible(self, image_id: str) -> dict[str, tuple[float, float]]:
        """The visible parts of an image by name, in the order of parts.txt."""
        where = f"{self.locations.uri}, id {image_id}"
        points: dict[str, tuple[float, float] | None] = {}
        for part_id, *rest in self.locations.all(image_id):
            x, y, visible = _numbers(rest, where)
            if part_id not in self.parts:
                raise DataError(where, "unknown part", f"part {part_id} is not in parts.txt")
            if part_id in points:
                raise DataError(where, "duplicate part", f"part {part_id} was there before")
            if visible not in (0, 1):
                raise DataError(where, "wrong value", f"part {part_id}: expected visible as 0 or 1, got {rest[2]}")
            points[part_id] = Fields({"xy": [[x, y]]}, where).points("xy")[0] if visible else None
        return {name: xy for part_id, name in self.parts.items() if (xy := points.get(part_id)) is not None}


def _listed(files: _Files, options: Options) -> Iterator[PairRow | Rejected]:
    """The pairs of the list; pair_id begins with the line's number, since a list may name a pair twice."""
    uri = str(options.list)
    for number, line in enumerate(text_lines(uri)[: options.limit], start=1):
        if line.strip():
            where = f"{uri}, line {number}"
            yield build_or_reject(where, _pair_of_line, line, number, where, files)


def _pair_of_line(line: str, number: int, where: str, files: _Files) -> PairRow:
    ids = line.split()
    if len(ids) != 2:
        raise DataError(where, "malformed line", f"expected two ids of images, got {len(ids)} words")
    for image_id in ids:
        if not files.in_split(image_id):
            detail = f"image {image_id} is not of the split {files.split}"
            raise DataError(where, "image of another split", detail, by_design=True)
    source, target = map(files.bird, ids)
    row = PairRow(
        where=where,
        pair_id=f"{number:05d}-{source.image_id}-{target.image_id}:{source.category}",
        source_uri=source.uri,
        target_uri=target.uri,
        source_box_xyxy=source.box_xyxy,
        target_box_xyxy=target.box_xyxy,
    )
    return _annotated(row, source, target, files)


def _annotated(row: PairRow, source: _Bird, target: _Bird, files: _Files) -> PairRow:
    """`row` with the common points, all points, and what the data set knows of its parts and classes."""
    common = [name for name in source.xy_px if name in target.xy_px]
    return replace(
        row,
        category=source.category,
        target_category=None if target.category == source.category else target.category,
        split=files.split,
        source_xy_px=[source.xy_px[name] for name in common],
        target_xy_px=[target.xy_px[name] for name in common],
        keypoint_id=common,
        source_all_xy_px=list(source.xy_px.values()),
        source_all_keypoint_id=list(source.xy_px),
        target_all_xy_px=list(target.xy_px.values()),
        target_all_keypoint_id=list(target.xy_px),
        mirror_keypoint_ids=files.mirror_ids,
    )


def _drawn(files: _Files, options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Pairs of images of one class, or of any two images, that share visible parts."""
    birds: dict[str, _Bird] = {}
    for image_id in files.names.words:
        where = f"{files.images_txt}, image {image_id}"
        bird = build_or_reject(where, _bird_of_split, files, image_id)
        if isinstance(bird, Rejected):
            yield bird
        elif bird is not None:
            birds[bird.uri] = bird
    instances = [
        Instance(
            id=bird.image_id,
            where=bird.where,
            image_uri=bird.uri,
            category=_ANY_CLASS if options.across else bird.category,
            xy_px=bird.xy_px,
            box_xyxy=bird.box_xyxy,
        )
        for bird in birds.values()
    ]
    for item in sample_pairs(instances, options, options.split):
        if isinstance(item, PairRow):
            yield _annotated(item, birds[item.source_uri], birds[item.target_uri], files)
        else:
            yield item


def _bird_of_split(files: _Files, image_id: str) -> _Bird | None:
    return files.bird(image_id) if files.in_split(image_id) else None


class _Lines:
    """The lines of a text file by their first word, an id. Lines are checked when they are asked for."""

    def __init__(self, uri: str, n_words: int) -> None:
        """n_words: the number of words after the id."""
        self.uri, self.n_words = uri, n_words
        self.words: dict[str, list[list[str]]] = defaultdict(list)
        for line in text_lines(uri):
            if line.strip():
                image_id, *words = line.split()
                self.words[image_id].append(words)

    def all(self, item_id: str) -> list[list[str]]:
        """The words of all lines of this id; none if there is no line. DataError if one is too short or too long."""
        lines = self.words.get(item_id, [])
        for words in lines:
            if len(words) != self.n_words:
                detail = f"expected {self.n_words} words after the id, got {len(words)}: {' '.join(words)[:60]!r}"
                raise DataError(f"{self.uri}, id {item_id}", "malformed line", detail)
        return lines

    def one(self, item_id: str) -> list[str]:
        """The words of the one line of this id."""
        lines = self.all(item_id)
        if not lines:
            raise DataError(f"{self.uri}, id {item_id}", "unknown id", "the file has no line that begins with it")
        if len(lines) > 1:
            raise DataError(f"{self.uri}, id {item_id}", "duplicate id", f"expected one line, got {len(lines)}")
        return lines[0]


def _part_names(uri: str) -> dict[str, str]:
    """The names of the parts, which have spaces, by id."""
    lines = (line.split(maxsplit=1) for line in text_lines(uri) if line.strip())
    names = {words[0]: words[-1].strip() for words in lines}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{uri}: two parts have one name")
    return names


def _mirror_ids(names: list[str]) -> list[tuple[str, str]]:
    """The names that differ in left and right alone, as (left, right)."""
    twins = ((name, f"right {name.removeprefix('left ')}") for name in names if name.startswith("left "))
    return [(left, right) for left, right in twins if right in names]


def _numbers(words: list[str], where: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise DataError(where, "wrong type", f"expected numbers, got {' '.join(words)[:60]!r}") from error
