"""SPair-71k: Layout/large/<split>.txt names the pairs, PairAnnotation/<split>/<pair>.json has their keypoints.

The ':' in the annotations' file names may be '-' on file systems that do not allow it. Boxes are partly 1-based and
stay as published. Nuisance levels that an annotation does not give are null. https://cvlab.postech.ac.kr/research/SPair-71k
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.datasets.common.fields import Fields, read_json
from pipeline.datasets.common.interface import (
    DataError,
    PairRow,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
    map_in_threads,
)
from pipeline.datasets.common.records import text_lines
from pipeline.io import storage


def pairs(options: SplitOptions) -> Iterator[PairRow | Rejected]:
    """Pairs in the order of the layout file; pair_id is the line in it."""
    layout = storage.join(options.root, "Layout", "large")
    splits = {PurePosixPath(uri).stem: uri for uri in storage.list_files(layout, ".txt")}
    if not splits:
        raise FileNotFoundError(f"{layout} has no split (*.txt): --root must be the folder that holds Layout/")
    split = choose_split(options.split, splits, layout)
    folder = storage.join(options.root, "PairAnnotation", split)
    present = {PurePosixPath(uri).name for uri in storage.list_files(folder, ".json")}

    def build(pair_id: str) -> PairRow | Rejected:
        return build_or_reject(pair_id, _pair, pair_id, options.root, split, folder, present)

    yield from map_in_threads(build, [line.strip() for line in text_lines(splits[split]) if line.strip()])


def _pair(pair_id: str, root: str, split: str, folder: str, present: set[str]) -> PairRow:
    file = f"{pair_id}.json"
    if file not in present:
        file = file.replace(":", "-")
    uri = storage.join(folder, file)
    if file not in present:
        raise DataError(uri, "missing annotation", "the layout names this pair, but the file is not there")
    record = read_json(uri)
    if not isinstance(record, dict):
        raise DataError(uri, "malformed JSON", f"expected an object, got {type(record).__name__}")
    fields = Fields(record, uri)
    source_xy_px, target_xy_px = fields.points("src_kps"), fields.points("trg_kps")
    keypoint_id = fields.texts("kps_ids")
    fields.same_length(src_kps=source_xy_px, trg_kps=target_xy_px, kps_ids=keypoint_id)
    category = fields.text("category")
    return PairRow(
        where=uri,
        pair_id=pair_id,
        source_uri=storage.join(root, "JPEGImages", category, fields.text("src_imname")),
        target_uri=storage.join(root, "JPEGImages", category, fields.text("trg_imname")),
        category=category,
        split=split,
        source_xy_px=source_xy_px,
        target_xy_px=target_xy_px,
        keypoint_id=keypoint_id,
        source_box_xyxy=fields.box("src_bndbox"),
        target_box_xyxy=fields.box("trg_bndbox"),
        viewpoint_variation=fields.level("viewpoint_variation", 2),
        scale_variation=fields.level("scale_variation", 2),
        truncation=fields.level("truncation", 3),
        occlusion=fields.level("occlusion", 3),
        source_stated_wh=fields.size_of_list("src_imsize"),
        target_stated_wh=fields.size_of_list("trg_imsize"),
    )
