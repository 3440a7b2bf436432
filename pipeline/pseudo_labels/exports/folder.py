"""The folder of an export: it is there under its name only when it is complete."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


def check_new_folder(out: str) -> Path:
    """The path of the folder that an export is to make.

    Raises ValueError if it is no path of this machine, or if there is a file, or a folder that is not empty.
    """
    if "://" in out:
        raise ValueError(
            f"exports are written to a folder of this machine, and {out} is a URI; copy it there afterwards"
        )
    path = Path(out).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{out} is a file: give the export a folder that is new or empty")
    if path.exists() and any(path.iterdir()):
        raise ValueError(f"the folder {out} is not empty: remove it, or give the export another one")
    return path


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """A folder beside `out` to write to; it becomes `out` when the block ends without an error.

    An interrupted export leaves `.NAME.unfinished`, which the next one removes. Raises ValueError as check_new_folder
    does, and while another process writes the same export.
    """
    path = check_new_folder(out)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / _LOCK).open("w") as lock:  # held until this process ends, however it does
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing the export {out}; wait for it or give another folder"
            ) from error
        for left in unfinished.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != _LOCK:
                left.unlink()
        yield unfinished
        (unfinished / _LOCK).unlink()
        unfinished.rename(path)
