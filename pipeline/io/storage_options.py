"""Options of the file systems, by scheme: endpoints, anonymous access, keys.

fsspec's configuration holds them, so they apply to everything a process opens afterwards; FSSPEC_* variables and
~/.config/fsspec fill the same configuration. They are in no table, no run.json and no error message.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from nemf.io.redact import secrets_of


def use_options(given: str | None) -> None:
    """Apply the value of `--storage-options`, JSON by scheme or @FILE, to this process; None changes nothing.

    Raises ValueError if they are not as expected, or hold a secret and were not given as a file.
    """
    if given is None:
        return
    name = "--storage-options" + (f" {given}" if given.startswith("@") else "")
    try:
        options = json.loads(Path(given[1:]).read_text("utf-8") if given.startswith("@") else given)
    except ValueError as error:
        raise ValueError(f"{name}: expected JSON: {error}") from error
    if not isinstance(options, dict) or not all(isinstance(value, dict) for value in options.values()):
        raise ValueError(f'{name}: expected JSON objects by scheme, such as {{"s3": {{"anon": true}}}}')
    unknown = sorted(options.keys() - set(fsspec.available_protocols()))
    if unknown:
        raise ValueError(f"{name}: there is no scheme {', '.join(unknown)}")
    if not given.startswith("@") and any(secrets_of(options)):
        raise ValueError(f"{name} holds a secret, and lists of processes show command lines: give @FILE.json instead")
    _configure(options)


def worker_environment() -> dict[str, Any] | None:
    """A Ray runtime_env with which all workers use the storage options of this process; None if there are no options.

    The options are the content of a function that Ray stores, not a part of the environment, which Ray displays.
    """
    return {"worker_process_setup_hook": _configuring(dict(fsspec.config.conf))} if fsspec.config.conf else None


def _configuring(options: dict[str, dict[str, Any]]) -> Callable[[], None]:
    def configure() -> None:
        _configure(options)

    return configure


def _configure(options: dict[str, dict[str, Any]]) -> None:
    for scheme, of_scheme in options.items():
        fsspec.config.conf[scheme] = {**fsspec.config.conf.get(scheme, {}), **of_scheme}
