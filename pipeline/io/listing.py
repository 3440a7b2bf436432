"""Whether files exist, for many of few folders."""

from pipeline.io import storage
from pipeline.io.uri_field import on_the_web


class Listing:
    """Whether files exist, by one listing of each folder; those on web servers, which have no listings, count as so."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, uri: str) -> bool:
        """Whether there is a file at `uri`."""
        if on_the_web(uri):
            return True
        folder, _, name = uri.rpartition("/")
        if folder not in self._names:
            self._names[folder] = storage.file_names(folder or "/")
        return name in self._names[folder]
