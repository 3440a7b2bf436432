"""A file system, broken://, whose every operation raises an exception of its own type."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


def _fail(_self: MemoryFileSystem, *_arguments: object, **_options: object) -> None:
    raise LookupError("the server\nis on fire")


class BrokenFileSystem(MemoryFileSystem):
    """Raises LookupError."""

    protocol = "broken"
    info = ls = isfile = exists = cat_file = pipe_file = put_file = rm = rm_file = _fail


fsspec.register_implementation("broken", BrokenFileSystem, clobber=True)
