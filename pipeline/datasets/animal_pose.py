"""Animal-Pose as Parquet: image_id, jpeg, instances[category, bbox_xyxy, keypoints[name, x, y]].

`--root` is one such file or a folder of them, <split>.parquet. The images that pairs need are written out once each,
byte for byte, to a folder beside the manifest, and referred to.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.datasets.fields import Fields
from pipeline.datasets.instances import Instance, by_name, sample_pairs
from pipeline.datasets.interface import DataError, Options, PairRow, Rejected, attempt, choose_split, in_threads
from pipeline.datasets.tables import parquet_rows

OPTIONS = ("split", "pairs_per_category", "seed")


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Rejected images first, then pairs by category; keypoint_id is the keypoint's name."""
    uris = [options.root] if options.root.endswith(".parquet") else storage.list_files(options.root, ".parquet")
    files = {PurePosixPath(uri).stem: uri for uri in uris}
    if not files:
        raise FileNotFoundError(f"{options.root} has no .parquet file")
    storage.refuse_overwrite(options.out, *uris)
    split = choose_split(options.split, files, options.root)
    instances: list[Instance] = []
    row_of_image: dict[str, str] = {}
    for row in parquet_rows(files[split], ("image_id", "jpeg", "instances")):
        for found in _instances(row, options.inline_images, row_of_image):
            if isinstance(found, Rejected):
                yield found
            else:
                instances.append(found)
    rows = list(sample_pairs(instances, options.pairs_per_category, options.seed, split))
    wanted = {row_of_image[uri]: uri for row in rows for uri in (row.source_uri, row.target_uri)}
    images = (
        (wanted[row.where], row.data("jpeg")) for row in parquet_rows(files[split], ("jpeg",)) if row.where in wanted
    )
    for _ in in_threads(lambda image: storage.write_bytes(*image), images):
        pass
    yield from rows


def _instances(row: Fields, folder: str, row_of_image: dict[str, str]) -> Iterator[Instance | Rejected]:
    """The instances of one image, whose row is noted in `row_of_image`."""
    image = attempt(row.where, _image, row)
    if isinstance(image, Rejected):
        yield image
        return
    image_id, records = image
    image_uri = storage.join(folder, f"{image_id}.jpg")
    if row_of_image.setdefault(image_uri, row.where) != row.where:
        detail = f"field image_id: {image_id} was there before"
        yield Rejected(pair=image_id, where=row.where, reason="duplicate id", detail=detail)
        return
    for number, record in enumerate(records):
        yield attempt(record.where, _instance, record, f"{image_id}.{number}", image_uri)


def _image(row: Fields) -> tuple[str, list[Fields]]:
    """The image's id, which becomes a file name, and its instances."""
    image_id = row.text("image_id")
    if "/" in image_id or image_id.startswith("."):
        raise DataError(row.where, "wrong value", f"field image_id: expected a plain name, got {image_id!r}")
    row.data("jpeg")
    return image_id, row.records("instances")


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
