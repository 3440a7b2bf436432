"""The images of an export as files, byte for byte as they were: hard links where that is possible, else copies."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from nemf.io.uri import open_uri
from pipeline.io import storage
from pipeline.io.image_size import ImageSize, read_image_size
from pipeline.io.images import ImageError, fetch_image
from schemas.failures import Failure

_REMEMBERED = 2**16
"""Number of images that are remembered; others are looked at again."""
_STEM_LETTERS = 40


class ImageFile(NamedTuple):
    """An image of an export."""

    name: str
    size: ImageSize


class ImageFiles:
    """The images below one folder. An image has one name, made of its URI, or of its bytes if it comes inline."""

    def __init__(self, folder: Path, image_root: str | None, suffix: str | None = None) -> None:
        """suffix: that of all names; None for that of each URI."""
        self._folder = folder
        self._image_root = image_root
        self._suffix = suffix
        self._known: dict[tuple[str, str], ImageFile | Failure] = {}
        self.n_files = 0
        self.n_turned = 0
        """Number of the files that an EXIF orientation turns."""

    def add(self, row: Mapping[str, Any], side: str, *, subfolder: str = "") -> ImageFile:
        """The image of one side of a PAIRS row, which is now a file in the subfolder.

        Raises ImageError for an image that is gone or is none, and CredentialsError as fetch_image does.
        """
        place = image_key(row, side, self._image_root), subfolder
        known = self._known.get(place)
        if known is None:
            known = self._place(*place, row[f"{side}_image"])
            if len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[place] = known
        if isinstance(known, Failure):
            raise ImageError(known.stage, known.kind, known.message)
        return known

    def add_both(self, row: Mapping[str, Any], *, subfolder: str = "") -> dict[str, ImageFile]:
        """The images of both sides, `source` and `target`. Raises as `add` does, and no image is added then."""
        counts = self.n_files, self.n_turned
        source = self.add(row, "source", subfolder=subfolder)
        is_new = self.n_files > counts[0]
        try:
            return {"source": source, "target": self.add(row, "target", subfolder=subfolder)}
        except ImageError:
            if is_new:
                (self._folder / subfolder / source.name).unlink()
                self._known.pop((image_key(row, "source", self._image_root), subfolder), None)
                self.n_files, self.n_turned = counts
            raise

    def notes(self) -> list[str]:
        """What who reads the files must know, sentences."""
        if not self.n_turned:
            return []
        return [
            f"{self.n_turned:,} images are turned by their EXIF orientation: points are in pixels of the image as "
            "shown, so a loader must apply it (PIL.ImageOps.exif_transpose)."
        ]

    def _place(self, key: str, subfolder: str, data: bytes | None) -> ImageFile | Failure:
        path = self._folder / subfolder / _file_name(key, self._suffix)
        is_new = not path.exists()
        if is_new:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                if data is not None or not _linked(key, path):
                    path.write_bytes(fetch_image(key) if data is None else data)
            except ImageError as error:
                return error.failure
        size = read_image_size(str(path))
        if size is None:
            path.unlink()
            return Failure("decode", "not_an_image", f"{key}: no image whose size can be read")
        self.n_files += is_new
        self.n_turned += is_new and size.orientation != 1
        return ImageFile(path.name, size)


def image_key(row: Mapping[str, Any], side: str, image_root: str | None) -> str:
    """What tells an image from all others: its URI, or a hash of its bytes if it comes inline. Raises ImageError."""
    if row[f"{side}_image"] is not None:
        return "inline-" + hashlib.sha256(row[f"{side}_image"]).hexdigest()
    if row[f"{side}_uri"]:
        return storage.resolve(row[f"{side}_uri"], image_root)
    raise ImageError("fetch", "no_image", f"the row has neither {side}_uri nor {side}_image")


def safe_name(text: str, allowed: str = r"A-Za-z0-9_") -> str:
    """Text as part of a file's name: at most 40 of the allowed letters, others are replaced; never empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(f"[^{allowed}]+", "_", plain).strip("_ -")[:_STEM_LETTERS] or "unnamed"


def short_hash(text: str) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _file_name(key: str, suffix: str | None) -> str:
    path = PurePosixPath(key)
    if suffix is None:
        suffix = path.suffix.lower() if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", path.suffix) else ""
    stem = "image" if key.startswith("inline-") else safe_name(path.stem)
    return f"{stem}_{short_hash(key)}{suffix}"


def _linked(uri: str, path: Path) -> bool:
    """Make `path` a hard link to the file at `uri`, if it is a plain one of this machine that can be linked."""
    try:
        fs, local = open_uri(uri)
        if not isinstance(fs, LocalFileSystem) or not Path(local).is_file():
            return False
        os.link(Path(local).resolve(), path)
    except Exception:  # a URI that cannot be opened: fetch_image says why
        return False
    return True
