"""Images inside Parquet tables: each becomes a file in a folder next to the manifest, named by its id."""

from pipeline.datasets.common.interface import DataError
from pipeline.io import storage

IMAGE_COLUMNS = ("jpeg", "jpg", "png", "webp", "image", "img")
"""Columns that may hold the bytes of an image file; the first existing one is read."""


def parquet_files(root: str) -> list[str]:
    """Sorted URIs of the .parquet files in the folder `root`, or of `root` itself if it is a file; may be empty."""
    return [root] if root.endswith(".parquet") else storage.list_files(root, ".parquet")


class InlineImages:
    """The URIs that the images of a data set are written to, no two of them the same."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.rows: dict[str, str] = {}
        """The file and row that each image is from, by the image's URI."""

    def add(self, image_id: str, where: str) -> str:
        """The URI for the image of the file and row `where`.

        Raises DataError if the id can be no file name or occurred before.
        """
        if "/" in image_id or image_id.startswith("."):
            raise DataError(where, "wrong value", f"field image_id: expected a plain name, got {image_id!r}")
        uri = storage.join(self._folder, f"{image_id}.jpg")
        if uri in self.rows:
            raise DataError(where, "duplicate id", f"field image_id: {image_id} was there before")
        self.rows[uri] = where
        return uri
