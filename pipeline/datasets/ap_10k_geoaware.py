"""AP-10K in GeoAware-SC's form: its lists of pairs, and where its evaluation puts occluded points.

PairAnnotation/{trn,val,test}[_cross_species|_cross_family]/*.json name two files of ImageAnnotation/FAMILY/SPECIES/
each; JPEGImages/ has the images. https://github.com/Junyi42/GeoAware-SC
"""

from collections.abc import Generator
from pathlib import PurePosixPath

from pipeline.datasets.ap_10k_animals import Animal, Animals, read_animal
from pipeline.datasets.ap_10k_list import CROSS_FAMILY, CROSS_SPECIES, INTRA_SPECIES, ListedPair
from pipeline.datasets.common.fields import Fields, read_json
from pipeline.datasets.common.interface import DataError, Rejected, build_or_reject, choose_split, map_in_threads
from pipeline.io import storage

_LETTERBOX_PX = 840
"""Side of the square into which GeoAware-SC scales and pads images before it halves occluded points."""


def halved_xy_px(x_px: float, y_px: float, image_wh: tuple[int, int]) -> tuple[float, float]:
    """Where GeoAware-SC's evaluation has an occluded point, in pixels of the original image.

    It scales the image to a long side of 840 pixels, pads it to a square, and multiplies the coordinates in the square
    by v / 2. The point it scores is halfway to the square's top left corner, which may be outside the image.
    """
    width, height = image_wh
    scale = _LETTERBOX_PX / max(image_wh)
    left, top = (int((_LETTERBOX_PX - round(_LETTERBOX_PX * side / max(image_wh))) / 2) for side in (width, height))
    return ((x_px * scale + left) / 2 - left) / scale, ((y_px * scale + top) / 2 - top) / scale


def of_geoaware(
    root: str, wanted_split: str | None, wanted_level: str
) -> Generator[Rejected, None, tuple[Animals, list[ListedPair]]]:
    """Returns the animals and pairs of the lists that GeoAware-SC made, and yields files that are wrong."""
    folder = storage.join(root, "PairAnnotation")
    folders = {name: _level_and_split(name) for name in sorted(storage.folder_names(folder))}
    known = {name: found for name, found in folders.items() if found is not None}
    split = choose_split(wanted_split, {split for _, split in known.values()}, folder)
    files = []
    for name, (level, of) in known.items():
        if of == split and wanted_level in ("all", level):
            files += [(uri, level, split) for uri in storage.list_files(storage.join(folder, name), ".json")]
    chosen: list[ListedPair] = []
    paths: dict[str, str] = {}
    for pair in map_in_threads(lambda file: build_or_reject(file[0], _stored_pair, *file), files):
        if isinstance(pair, Rejected):
            yield pair
            continue
        (source, target), (level, split), where = pair
        other = [path for path in (source, target) if paths.setdefault(_id_of(path), path) != path]
        if other:
            detail = f"image {_id_of(other[0])} is {other[0]} here and {paths[_id_of(other[0])]} elsewhere"
            yield Rejected(pair=where, where=where, reason="duplicate id", detail=detail)
            continue
        chosen.append(
            ListedPair(where=where, source_id=_id_of(source), target_id=_id_of(target), level=level, split=split)
        )

    def read(path: str) -> Animal | Rejected:
        return build_or_reject(path, _stored_animal, path, root)

    return dict(zip(paths, map_in_threads(read, paths.values()), strict=True)), chosen


def _level_and_split(folder: str) -> tuple[str, str] | None:
    """The level and split of a folder such as test_cross_species or trn; None for another folder."""
    split, _, level = folder.partition("_")
    levels = {"": INTRA_SPECIES, "cross_species": CROSS_SPECIES, "cross_family": CROSS_FAMILY}
    splits = {"trn": "train", "val": "val", "test": "test"}
    return (levels[level], splits[split]) if level in levels and split in splits else None


def _stored_pair(uri: str, level: str, split: str) -> tuple[tuple[str, str], tuple[str, str], str]:
    """The paths of both annotations below ImageAnnotation/, (level, split), and the file."""
    fields = _object(uri)
    source, target = (_below_annotations(fields, name) for name in ("src_json_path", "trg_json_path"))
    return (source, target), (level, split), uri


def _below_annotations(fields: Fields, name: str) -> str:
    """FAMILY/SPECIES/IMAGE.json, of a path that begins in the folder from which GeoAware-SC was run."""
    _, found, path = fields.text(name).replace("\\", "/").rpartition("ImageAnnotation/")
    stem = PurePosixPath(path).stem
    if not (found and path.count("/") == 2 and path.endswith(".json") and stem.isdecimal() and ".." not in path):
        expected = "a path .../ImageAnnotation/FAMILY/SPECIES/IMAGE.json, where IMAGE is the image's number"
        raise DataError(fields.where, "wrong value", f"field {name}: expected {expected}, got {fields.text(name)!r}")
    return path


def _id_of(path: str) -> str:
    return str(int(PurePosixPath(path).stem))


def _stored_animal(path: str, root: str) -> Animal:
    """The animal of an annotation below ImageAnnotation/, which holds the records of its image and category as well."""
    family, species, name = path.split("/")
    fields = _object(storage.join(root, "ImageAnnotation", path))
    uri = storage.join(root, "JPEGImages", family, species, f"{PurePosixPath(name).stem}.jpg")
    names = Fields({"name": species, "supercategory": family}, fields.where)
    animal = read_animal(fields, fields, names, uri)
    if animal.image_id != _id_of(path):
        detail = f"field id: expected {_id_of(path)}, as the file is named, got {animal.image_id}"
        raise DataError(fields.where, "wrong value", detail)
    return animal


def _object(uri: str) -> Fields:
    try:
        content = read_json(uri)
    except FileNotFoundError as error:
        raise DataError(uri, "missing annotation", "the file is not there") from error
    if not isinstance(content, dict):
        raise DataError(uri, "malformed JSON", f"expected an object, got {type(content).__name__}")
    return Fields(content, uri)
