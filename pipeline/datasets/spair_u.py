"""SPair-U: about four more keypoints a category on test images of SPair-71k. Test only.

`--root` is SPair-U with PairAnnotation/test and ImageAnnotation beside SPair-71k's own Layout and JPEGImages, or the
folder of SPair-71k with ExtraPairAnnotation and ExtraImageAnnotation in it. Not every pair of Layout/large/test.txt is
in SPair-U. Points are in pixels of the original image. https://github.com/VICO-UoE/JamaisVu
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.datasets.common.interface import (
    DatasetOptions,
    Note,
    PairRow,
    Rejected,
    build_or_reject,
    map_in_threads,
)
from pipeline.datasets.spair import image_annotations, layout_lines, read_pair
from pipeline.io import storage

_PREFIXES = ("Extra", "")
"""Of the two folders' names; the first with pairs is read."""
_SPLIT = "test"
ABSENT = "pair of SPair-71k's layout that is not in SPair-U"


def pairs(options: DatasetOptions) -> Iterator[PairRow | Rejected | Note]:
    """Pairs in the order of the layout file, or by name without one; pair_id is the name of the pair's file."""
    for prefix in _PREFIXES:
        folder = storage.join(options.root, f"{prefix}PairAnnotation", _SPLIT)
        files = {PurePosixPath(uri).name.removesuffix(".json"): uri for uri in storage.list_files(folder, ".json")}
        if files:
            break
    else:
        raise FileNotFoundError(
            f"{options.root} has no pairs: expected PairAnnotation/test/*.json, or ExtraPairAnnotation/test/*.json"
        )
    layout = storage.join(options.root, "Layout", "large", f"{_SPLIT}.txt")
    names = layout_lines(layout) if storage.is_file(layout) else sorted(files)
    by_name = {name: files.get(name) or files.get(name.replace(":", "-")) for name in names}
    unlisted = sorted(files.keys() - by_name.keys() - {name.replace(":", "-") for name in names})
    by_name |= {name: files[name] for name in unlisted}
    if absent := [name for name, uri in by_name.items() if uri is None]:
        yield Note(where=layout, what=ABSENT, count=len(absent))
    read_image = image_annotations(storage.join(options.root, f"{prefix}ImageAnnotation"))

    def build(item: tuple[str, str]) -> PairRow | Rejected:
        return build_or_reject(item[0], read_pair, *item, options.root, _SPLIT, read_image)

    yield from map_in_threads(build, [(name, uri) for name, uri in by_name.items() if uri is not None])
