"""Fields of configurations that are paths or URIs: `Uri` for one, `UriField` to annotate other types.

The annotation is used to make paths absolute for workers, which run in folders of their own; by jobs.command to refuse
empty paths; and by jobs.submit to refuse paths that exist on one machine only.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pipeline.io import storage

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UriField:
    """Annotates a field whose value is a path or URI, a tuple of them, or None."""

    names: tuple[str, ...] | None = None
    """Values that are always names. With names, any other value that is neither a URI nor an existing path is one too;
    None if the value is never a name."""
    only_these_names: bool = False
    """Any other value is a path or URI, whether it exists or not."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that may precede the path or URI in the value, such as descriptors: of a matcher."""
    verbatim_uris: bool = False
    """A URI keeps its trailing slashes: s3:// as a prefix of other URIs."""
    local: bool = False
    """The help names a local path and no URI."""

    def split(self, value: str) -> tuple[str, str]:
        """(prefix, path or URI); (value, "") for a name. Options of a matcher, behind a '?', stay with the path."""
        if self.names is None:
            return "", value
        prefix = next((prefix for prefix in self.prefixes if value.startswith(prefix)), "")
        location = value.removeprefix(prefix)
        path = location.partition("?")[0]
        is_location = (
            path and path not in self.names and (self.only_these_names or "://" in path or Path(path).exists())
        )
        return (prefix, location) if is_location else (value, "")

    def absolute(self, value: str) -> str:
        """`value` with the path in it made absolute. Raises ValueError if it is empty."""
        prefix, location = self.split(value)
        if (self.names is not None and not location) or (self.verbatim_uris and "://" in location):
            return value
        return prefix + storage.absolute(location)


Uri = Annotated[str, UriField()]
"""A path or URI."""
LocalPath = Annotated[str, UriField(local=True)]
"""A path on this machine."""


def uri_fields(config_type: type[Any]) -> dict[str, UriField]:
    """The fields of a dataclass that are paths or URIs, by name."""
    hints = get_type_hints(config_type, include_extras=True)
    fields = ((field.name, _annotation(hints[field.name])) for field in dataclasses.fields(config_type))
    return {name: field for name, field in fields if field is not None}


def uris_of(config: Any) -> Iterator[tuple[str, str]]:
    """(field name, path or URI) for each path or URI in a configuration; names and unset fields are left out."""
    for name, field in uri_fields(type(config)).items():
        for value in _values(getattr(config, name)):
            uri = field.split(value)[1]
            if uri or field.names is None:
                yield name, uri


def with_absolute_uris(config: Config) -> Config:
    """`config` with every path in it absolute. Raises ValueError if a path or URI is empty."""
    absolute: dict[str, Any] = {}
    for name, field in uri_fields(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, tuple):
            absolute[name] = tuple(map(field.absolute, value))
        elif value is not None:
            absolute[name] = field.absolute(value)
    return dataclasses.replace(config, **absolute)  # type: ignore[type-var]


def is_relative(location: str) -> bool:
    """Whether a path depends on the working folder, or the home folder, of this process."""
    return "://" not in location and not Path(location).is_absolute()


def on_the_web(uri: str) -> bool:
    """Whether a URI is on a web server, which has no listings."""
    return uri.lower().startswith(("http://", "https://"))


def _annotation(hint: Any) -> UriField | None:
    """The UriField in a type, or in a part of it, such as `Uri | None` or `tuple[Uri, ...]`; None if there is none."""
    for part in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        if isinstance(part, UriField):
            return part
        if (found := _annotation(part)) is not None:
            return found
    return None


def _values(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (str(value),)
