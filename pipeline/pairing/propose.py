"""Images without pairs become pairs: each image with those that look most like it.

Every image is read and embedded once (embed), neighbours are searched exactly (nearest), and pairs are chosen so that
no image and no category is in too many (choose). The pairs depend on the images, their ids and the options alone, not
on the order in which files are listed, on workers or on batches.
"""

from collections.abc import Iterable, Iterator

from nemf.matchers.table import find_entry
from pipeline.datasets.common.interface import Note, PairRow, Rejected, UnpairedImage
from pipeline.pairing.choose import choose_pairs
from pipeline.pairing.options import PairingOptions

WITHIN, ACROSS = "within category", "across categories"
"""Values of the column `level` for images with categories."""


def with_proposed_pairs(
    items: Iterable[PairRow | Rejected | Note | UnpairedImage], options: PairingOptions
) -> Iterator[PairRow | Rejected | Note]:
    """The items of a data set, and in place of its unpaired images, if any, at the end: Rejected ones, then pairs.

    Left out, which is no error: an image that cannot be read, with the reason; and an image whose bytes are those of
    another one, since a pair of the two teaches nothing. A pair's id is made of those of its images; it has category
    and target_category, level where images have categories, and the split that its images share.
    Raises ValueError where no pair can be proposed, and as embed_on_ray does.
    """
    images: dict[str, UnpairedImage] = {}
    for item in items:
        if not isinstance(item, UnpairedImage):
            yield item
        elif item.image_id in images:
            detail = f"{item.image_id} was there before, {images[item.image_id].where}"
            yield Rejected(pair=item.image_id, where=item.where, reason="duplicate image id", detail=detail)
        else:
            images[item.image_id] = item
    if images:
        yield from _proposed([images[image_id] for image_id in sorted(images)], options)


def _proposed(images: list[UnpairedImage], options: PairingOptions) -> Iterator[PairRow | Rejected | Note]:
    from pipeline.pairing.embed import embed_on_ray  # imports Ray, which manifests of given pairs do not need

    find_entry(options.matcher)
    embedded = embed_on_ray([image.uri for image in images], options)
    for number, failure in sorted(embedded.failures.items()):
        reason = f"image that cannot be read ({failure.stage}: {failure.kind})"
        yield _left_out(images[number], reason, failure.message)
    first_of: dict[bytes, UnpairedImage] = {}
    kept = []
    for row, (number, digest) in enumerate(zip(embedded.numbers, embedded.digests, strict=True)):
        if first_of.setdefault(digest, images[number]) is images[number]:
            kept.append(row)
        else:
            yield _left_out(images[number], "copy of another image", f"the same bytes as {first_of[digest].image_id}")
    usable = [images[embedded.numbers[row]] for row in kept]
    choice = choose_pairs(embedded.vectors[kept], [image.category for image in usable], options)
    if not choice.pairs:
        raise ValueError(_no_pairs(len(images), len(embedded.failures), usable, options))
    for source, target in choice.pairs:
        yield _pair(usable[source], usable[target])
    for what, count in (("image", choice.over_image), ("category", choice.over_category)):
        if count:
            flag = f"--pairs-per-{what}"
            yield Note(where=images[0].where, what=f"neighbour left out by {flag}", count=count)


def _left_out(image: UnpairedImage, reason: str, detail: str) -> Rejected:
    return Rejected(pair=image.image_id, where=image.where, reason=reason, detail=detail, by_design=True)


def _no_pairs(n_images: int, n_failed: int, usable: list[UnpairedImage], options: PairingOptions) -> str:
    """Why there are no pairs, as text."""
    copies = n_images - n_failed - len(usable)
    text = (
        f"no pairs to propose: of {n_images:,} images {n_failed:,} cannot be read, {copies:,} are copies of others and "
        f"{len(usable):,} are left"
    )
    if len(usable) < 2:
        return f"{text}; a pair needs two"
    n_categories = len({image.category for image in usable})
    return (
        f"{text}, of {n_categories:,} categories; --neighbours {options.neighbours} asks for pairs within a category, "
        f"--neighbours-across {options.neighbours_across} for pairs across"
    )


def _pair(source: UnpairedImage, target: UnpairedImage) -> PairRow:
    across = source.category != target.category
    has_categories = source.category is not None or target.category is not None
    return PairRow(
        where=source.where,
        pair_id=f"{source.image_id}:{target.image_id}",
        source_uri=source.uri,
        target_uri=target.uri,
        category=source.category,
        target_category=target.category if across else None,
        source_box_xyxy=source.box_xyxy,
        target_box_xyxy=target.box_xyxy,
        level=(ACROSS if across else WITHIN) if has_categories else None,
        split=source.split if source.split == target.split else None,
    )
