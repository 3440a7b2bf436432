"""Options written as text, such as those after the '?' of a matcher's name. Imports no torch."""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, get_args, get_origin


def parse_options(name: str, text: str, types: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, Any]:
    """The values in a text such as 'window=0&image_size=480', by option.

    name: what an error begins with.
    types: the type of each option there is: str, int, float, bool, a Literal of strings, or a tuple of one of these.
    also: options that were read before, for the error that lists them.
    Raises ValueError for an option that is unknown, given twice or not of its type.
    """
    options: dict[str, Any] = {}
    for part in text.split("&") if text else []:
        key, _, value = part.partition("=")
        if key not in types or key in options:
            problem = "given twice" if key in options else "unknown"
            raise ValueError(f"{name}: option {key!r} is {problem}; there are {', '.join([*types, *also])}")
        try:
            options[key] = _parse(types[key], value)
        except ValueError as error:
            raise ValueError(f"{name}: option {key} must be {error}; got {value!r}") from error
    return options


def _parse(kind: Any, text: str) -> Any:
    """`text` as a value of the type `kind`; ValueError says what it must be."""
    if get_origin(kind) is tuple:
        try:
            return tuple(_parse(get_args(kind)[0], part) for part in text.split(","))
        except ValueError as error:
            raise ValueError(f"a list such as 4,1, each {error}") from error
    choices = {"true": True, "false": False} if kind is bool else {choice: choice for choice in get_args(kind)}
    if choices:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[text]
    with suppress(ValueError):
        value = kind(text)
        if kind is not float or math.isfinite(value):
            return value
    raise ValueError("a whole number" if kind is int else "a finite number")
