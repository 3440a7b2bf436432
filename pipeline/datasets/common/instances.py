"""Pairs of annotated objects of one category, in different images, that share visible keypoints."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import Box, DataError, DatasetOptions, Note, PairRow, Rejected

Keypoint = TypeVar("Keypoint")

MIN_SHARED_KEYPOINTS = 3


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(DatasetOptions):
    """The options of a data set whose pairs are drawn from its instances."""

    pairs_per_category: int = 1000
    """Maximum number of pairs of each category."""
    seed: int = 0
    """Seed of the random choice of pairs."""
    crowded: Literal["keep", "leave-out"] = "keep"
    """Images with several objects of a category: each object is paired as if it were the only one, or the images are
    left out and counted. `nemf evaluate` averages over either kind by itself; `nemf match --crop boxes` matches inside
    the boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One object in one image."""

    id: str
    """Id of the object, unique in the data set."""
    where: str
    image_uri: str
    category: str
    xy_px: dict[str, tuple[float, float]]
    """The visible keypoints by name."""
    box_xyxy: Box | None
    image_wh: tuple[int, int] | None = None
    """Width and height of the image as the annotation states them."""


def by_name(fields: Fields, names: list[str], keypoints: list[Keypoint]) -> dict[str, Keypoint]:
    """Keypoints by their names. DataError unless there is one for each name, and no name twice."""
    fields.same_length(names=names, keypoints=keypoints)
    if len(set(names)) < len(names):
        raise DataError(fields.where, "wrong value", f"keypoint names must differ, got {', '.join(names)}")
    return dict(zip(names, keypoints, strict=True))


def sample_pairs(
    instances: Iterable[Instance], options: SamplingOptions, split: str | None = None
) -> Iterator[PairRow | Rejected | Note]:
    """At most `pairs_per_category` pairs of each category, none twice; the order of `instances` makes no difference.

    A category without a pair is a Rejected that says why. Images with several objects of a category are noted, or are
    left out.

    The instances of a category are sorted, shuffled, and laid out on a circle; pairs are taken one step apart, then
    two, and so on. So every instance is used about equally often, and all pairs come if the number allows it.
    """
    if options.pairs_per_category < 1:
        raise ValueError(f"--pairs-per-category must be at least 1, got {options.pairs_per_category}")
    by_category = defaultdict(list)
    for instance in sorted(instances, key=lambda instance: instance.id):
        by_category[instance.category].append(instance)
    for category, members in sorted(by_category.items()):
        others = _others(members)
        yield from _crowded(members, others, options)
        if options.crowded == "leave-out":
            members = [member for member in members if not others[member.id]]
        random.Random(f"{options.seed}:{category}").shuffle(members)
        n_pairs = 0
        for source, target in _around_the_circle(members):
            shared = [name for name in source.xy_px if name in target.xy_px]
            if source.image_uri == target.image_uri or len(shared) < MIN_SHARED_KEYPOINTS:
                continue
            yield PairRow(
                where=source.where,
                pair_id=f"{source.id}-{target.id}:{category}",
                source_uri=source.image_uri,
                target_uri=target.image_uri,
                category=category,
                split=split,
                source_xy_px=[source.xy_px[name] for name in shared],
                target_xy_px=[target.xy_px[name] for name in shared],
                keypoint_id=shared,
                source_box_xyxy=source.box_xyxy,
                target_box_xyxy=target.box_xyxy,
                source_other_boxes_xyxy=_boxes(others[source.id]),
                target_other_boxes_xyxy=_boxes(others[target.id]),
                source_stated_wh=source.image_wh,
                target_stated_wh=target.image_wh,
            )
            n_pairs += 1
            if n_pairs == options.pairs_per_category:
                break
        if not n_pairs and members:
            yield _never_met(category, members)


def _others(members: Sequence[Instance]) -> dict[str, list[Instance]]:
    """The other objects in the image of each object of a category, by its id."""
    in_image = defaultdict(list)
    for member in members:
        in_image[member.image_uri].append(member)
    return {member.id: [other for other in in_image[member.image_uri] if other is not member] for member in members}


def _boxes(members: Sequence[Instance]) -> list[Box] | None:
    """The boxes of some objects; None if one has none."""
    boxes = [member.box_xyxy for member in members if member.box_xyxy is not None]
    return boxes if len(boxes) == len(members) else None


def _crowded(
    members: Sequence[Instance], others: dict[str, list[Instance]], options: SamplingOptions
) -> Iterator[Note | Rejected]:
    """A note for each image in which a category has several objects, or a Rejected if it is left out."""
    seen = set()
    for member in members:
        if others[member.id] and member.image_uri not in seen:
            seen.add(member.image_uri)
            if options.crowded == "keep":
                what = "image with several objects of a category, each paired as if it were the only one"
                yield Note(where=member.where, what=what)
            else:
                yield Rejected(
                    pair=member.id,
                    where=member.where,
                    reason="image with several objects of a category",
                    detail=f"{1 + len(others[member.id])} objects, and --crowded leave-out",
                    by_design=True,
                )


def _never_met(category: str, members: Sequence[Instance]) -> Rejected:
    """The reason why the objects of a category make no pair, as text."""
    n_images = len({instance.image_uri for instance in members})
    reason = f"category whose objects share fewer than {MIN_SHARED_KEYPOINTS} visible keypoints"
    if n_images < 2:
        reason = "category with objects in one image only, and a pair needs two"
    most = max(len(instance.xy_px) for instance in members)
    detail = f"{len(members):,} objects in {n_images:,} images, with at most {most} visible keypoints each"
    return Rejected(pair=category, where=members[0].where, reason=reason, detail=detail, by_design=True)


def _around_the_circle(members: Sequence[Instance]) -> Iterator[tuple[Instance, Instance]]:
    """Every unordered pair once, nearest neighbours on the circle first."""
    count = len(members)
    for step in range(1, count // 2 + 1):
        # Half way round, a step and its reverse meet in the same pair.
        for start in range(count // 2 if 2 * step == count else count):
            yield members[start], members[(start + step) % count]
