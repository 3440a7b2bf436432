"""Animal-Pose as Parquet: image_id, jpeg, instances[category, bbox_xyxy, keypoints[name, x, y]].

`--root` is one such file or a folder of them, <split>.parquet. The images of the pairs are written once each, byte for
byte, to the folder OUT_images/ next to the manifest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.inline_images import InlineImages, parquet_files
from pipeline.datasets.common.instances import Instance, SamplingOptions, by_name, sample_pairs
from pipeline.datasets.common.interface import (
    Note,
    PairRow,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
    map_in_threads,
)
from pipeline.datasets.common.records import parquet_rows
from pipeline.io import storage


@dataclass(frozen=True, kw_only=True)
class Options(SplitOptions, SamplingOptions):
    """Options of the data set Animal-Pose."""


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Rejected images first, then pairs by category; keypoint_id is the keypoint's name."""
    files = {PurePosixPath(uri).stem: uri for uri in parquet_files(options.root)}
    if not files:
        raise FileNotFoundError(
            f"{options.root} has no .parquet file, <split>.parquet; Animal-Pose as it is published, keypoints.json and "
            f"images, is read by --dataset coco --annotations {storage.join(options.root, 'keypoints.json')} "
            f"--root {storage.join(options.root, 'images')}"
        )
    storage.refuse_overwrite(options.out, *files.values())
    split = choose_split(options.split, files, options.root)
    instances: list[Instance] = []
    images = InlineImages(options.inline_images)
    for row in parquet_rows(files[split], ("image_id", "jpeg", "instances")):
        for instance in _instances(row, images):
            if isinstance(instance, Rejected):
                yield instance
            else:
                instances.append(instance)
    items = list(sample_pairs(instances, options, split))
    rows = [item for item in items if isinstance(item, PairRow)]
    uris = {images.rows[uri]: uri for row in rows for uri in (row.source_uri, row.target_uri)}
    written = (
        (uris[row.where], row.data("jpeg")) for row in parquet_rows(files[split], ("jpeg",)) if row.where in uris
    )
    for _ in map_in_threads(lambda image: storage.write_bytes(*image), written):
        pass
    yield from items


def _instances(row: Fields, images: InlineImages) -> Iterator[Instance | Rejected]:
    """The instances of one image."""
    image = build_or_reject(row.where, _image, row, images)
    if isinstance(image, Rejected):
        yield image
        return
    image_id, image_uri, records = image
    for number, record in enumerate(records):
        yield build_or_reject(record.where, _instance, record, f"{image_id}.{number}", image_uri)


def _image(row: Fields, images: InlineImages) -> tuple[str, str, list[Fields]]:
    """The image's id, the URI it will be written to, and its instances."""
    image_id, records = row.text("image_id"), row.records("instances")
    row.data("jpeg")
    return image_id, images.add(image_id, row.where), records


def _instance(fields: Fields, instance_id: str, image_uri: str) -> Instance:
    keypoints = fields.records("keypoints")
    names = [keypoint.text("name") for keypoint in keypoints]
    points = [(keypoint.real("x"), keypoint.real("y")) for keypoint in keypoints]
    return Instance(
        id=instance_id,
        where=fields.where,
        image_uri=image_uri,
        category=fields.text("category"),
        xy_px=by_name(fields, names, points),
        box_xyxy=fields.box("bbox_xyxy"),
    )
