"""Finding the files of a published data set, which people unpack into folders of several layouts."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.io import storage


def folders_near(root: str, outer: str, inner: str) -> Iterator[str]:
    """`root`; the folders of known names below it, two levels deep; and the folder above it with those below that.

    outer, inner: regular expressions for the names of folders, whatever their case: those that hold the whole data set,
    and those that hold a part of it. The folder above is only searched if `root` has an inner name.
    """
    yield root
    yield from _below(root, f"{outer}|{inner}")
    above = root.rpartition("/")[0]
    if re.fullmatch(inner, PurePosixPath(root).name, re.IGNORECASE) and above and not above.endswith(":/"):
        yield above
        yield from _below(above, inner)


def _below(folder: str, names: str, levels: int = 2) -> Iterator[str]:
    for name in sorted(storage.folder_names(folder)):
        if re.fullmatch(names, name, re.IGNORECASE):
            below = storage.join(folder, name)
            yield below
            if levels > 1:
                yield from _below(below, names, levels - 1)
