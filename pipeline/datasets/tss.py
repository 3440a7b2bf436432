"""TSS: FG3DCar, JODS and PASCAL, each with PAIR/{image1,image2,mask1,mask2}.png, flow1.flo, flow2.flo and flip_gt.txt.

flow1.flo is on the grid of image1 and points into image2, flow2.flo the other way round. The masks may be palette PNG.
The category is the sub-set, pair_id is SUBSET/PAIR, and `mirrored` is what flip_gt.txt says. There are no keypoints:
score under protocol tss. https://taniai.space/projects/cvpr16_dccs
"""

from collections.abc import Iterator
from functools import partial

from pipeline.datasets.common.interface import (
    DataError,
    DatasetOptions,
    PairRow,
    Rejected,
    build_or_reject,
    map_in_threads,
)
from pipeline.datasets.common.layout import folders_near
from pipeline.io import storage

_SUBSETS = ("FG3DCar", "JODS", "PASCAL")
_NEEDED = ("image1.png", "image2.png", "flow1.flo", "flow2.flo")
_FLIP = "flip_gt.txt"


def pairs(options: DatasetOptions) -> Iterator[PairRow | Rejected]:
    """Pairs in order of sub-set and name. One without an image or a flow is rejected; masks and flip are optional."""
    for folder in folders_near(options.root, "tss.*|dataset", "|".join(_SUBSETS)):
        present = storage.folder_names(folder)
        names = [(name, pair) for name in _SUBSETS if name in present for pair in _pair_names(folder, name)]
        if names:
            yield from map_in_threads(partial(_pair_or_rejected, folder), names)
            return
    raise FileNotFoundError(
        f"{options.root} has none of the folders {', '.join(_SUBSETS)} with a folder per pair: is --root TSS?"
    )


def _pair_names(root: str, subset: str) -> list[str]:
    return sorted(storage.folder_names(storage.join(root, subset)))


def _pair_or_rejected(root: str, name: tuple[str, str]) -> PairRow | Rejected:
    return build_or_reject("/".join(name), _pair, root, *name)


def _pair(root: str, subset: str, name: str) -> PairRow:
    folder = storage.join(root, subset, name)
    present = storage.file_names(folder)
    missing = [file for file in _NEEDED if file not in present]
    if missing:
        raise DataError(folder, "missing file", f"expected {', '.join(_NEEDED)}; there is no {', '.join(missing)}")
    uri = {file: storage.join(folder, file) for file in present}
    return PairRow(
        where=folder,
        pair_id=f"{subset}/{name}",
        source_uri=uri["image1.png"],
        target_uri=uri["image2.png"],
        category=subset,
        split="test",
        mirrored=_mirrored(uri[_FLIP]) if _FLIP in uri else None,
        source_flow_uri=uri["flow1.flo"],
        target_flow_uri=uri["flow2.flo"],
        flow_format="flo",
        source_mask_uri=uri.get("mask1.png"),
        target_mask_uri=uri.get("mask2.png"),
    )


def _mirrored(uri: str) -> bool:
    text = storage.read_bytes(uri).strip()
    if text not in (b"0", b"1"):
        raise DataError(uri, "wrong value", f"expected 0 or 1, got {text[:20]!r}")
    return text == b"1"
