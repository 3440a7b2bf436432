"""The checker of the jaxtyping annotations in the tests, see addopts in pyproject.toml."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as to mypy


def check(function: Callable) -> Callable:
    """The function with its arguments and result checked; Protocol checks its own choices, and tests get them wrong."""
    return function if function.__module__ == "pipeline.evaluation.protocols" else _check(function)
