"""Command lines made of Config dataclasses: a flag per field, help from docstrings, errors as one line."""

import ast
import dataclasses
import inspect
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from jobs.output import closed_streams, ending_quietly, flush
from nemf.io.redact import redacted
from nemf.matchers.table import FIXED_NAMES, FOLDER_PREFIX, HELP
from pipeline.cluster.errors import ClusterError
from pipeline.io.storage_options import use_options
from pipeline.io.uri_field import UriField, uri_fields, uris_of

OK, CLUSTER_FAILED, BAD_INPUT, OVER_BUDGET, NOT_GOOD_ENOUGH, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes: done; Ray or one of its processes failed, or there is a bug; bad input or configuration; finished beyond
the error budget; finished, and a requirement is missed; stopped by a signal. One more is jobs.output.CLOSED."""

Config = TypeVar("Config")


def _split(arguments: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for argument in arguments for name in argument.split(",") if name)


def _workers(word: str) -> tuple[int, int]:
    least, _, most = word.partition(",")
    return int(least), int(most or least)


Names = Annotated[
    tuple[str, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME[,NAME...]",
        instance_from_str=lambda arguments: _split(arguments),
        is_instance=lambda instance: isinstance(instance, tuple),
        str_from_instance=lambda instance: [",".join(instance)],
    ),
]
"""Several names in one flag, separated by commas or spaces."""
Uris = Annotated[Names, UriField()]
"""Several paths or URIs in one flag, separated by commas or spaces."""
MatcherName = Annotated[
    str,
    UriField(names=FIXED_NAMES, prefixes=(FOLDER_PREFIX,)),
    tyro.conf.arg(help=HELP),
]
"""A matcher's name, as nemf.load_matcher takes it: possibly the path or URI of a checkpoint folder."""
Workers = Annotated[
    tuple[int, int],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|MIN,MAX",
        instance_from_str=lambda words: _workers(words[0]),
        is_instance=lambda instance: isinstance(instance, tuple),
        str_from_instance=lambda instance: [f"{instance[0]},{instance[1]}"],
    ),
]
"""Number of processes, at least and at most; a single number is both."""

_POSITIONAL = get_args(tyro.conf.Positional[str])[1]
_StorageOptions = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="JSON|@FILE",
        help='Options of file systems by scheme, such as {"s3": {"anon": true}}; @FILE.json if there are secrets.',
        help_behavior_hint="",
    ),
]


class OverBudgetError(RuntimeError):
    """The job finished, but more pairs failed than --error-budget allows."""


class RequirementError(RuntimeError):
    """The job finished, but its result misses a value that --require demands."""


def run_command(
    config_type: type[Config],
    run: Callable[[Config], Any],
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> int:
    """Parse the command line (default: sys.argv), run the job, and turn its errors into one line and an exit code.

    description: the text of --help; None for the docstring of the job's module.
    ValueError and OSError mean bad input and give BAD_INPUT; with NEMF_TRACEBACK=1 they are raised instead.
    SystemExit if nobody reads the output any more.
    """
    module = sys.modules[run.__module__]
    name = (module.__spec__.name if module.__spec__ else module.__name__).removeprefix("jobs.").replace("_", "-")
    with ending_quietly():
        try:
            words = sys.argv[1:] if argv is None else argv
            config, storage_options = parse(config_type, words, name, description or module.__doc__)
            use_options(storage_options)
            with _sigterm_as_ctrl_c():
                run(config)
            flush()
        except KeyboardInterrupt as interrupt:
            print(f"interrupted: {redacted(str(interrupt))}" if interrupt.args else "interrupted", file=sys.stderr)
            return INTERRUPTED
        except (OverBudgetError, RequirementError) as error:
            print(f"error: {redacted(str(error))}", file=sys.stderr)
            return OVER_BUDGET if isinstance(error, OverBudgetError) else NOT_GOOD_ENOUGH
        except (ValueError, OSError, ClusterError) as error:
            if os.environ.get("NEMF_TRACEBACK") or (isinstance(error, BrokenPipeError) and closed_streams()):
                raise
            print(f"error: {redacted(str(error))}", file=sys.stderr)
            return CLUSTER_FAILED if isinstance(error, ClusterError) else BAD_INPUT
        return OK


def parse(
    config_type: type[Config], argv: Sequence[str], name: str, description: str | None = None
) -> tuple[Config, str | None]:
    """The Config of a command line, and the value of --storage-options, which no Config stores.

    argv: the arguments after `nemf NAME`. description: text of the help.
    Raises ValueError for a list that is given twice and for an empty path; SystemExit where tyro prints help or errors.
    """
    _refuse_repeated_lists(config_type, argv)
    flat = (tyro.conf.OmitArgPrefixes,)  # fields of a nested configuration are flags like all others
    line: Any = tyro.cli(
        _command_line(config_type), args=argv, prog=f"nemf {name}", description=description, config=flat
    )
    given = {field.name: getattr(line, field.name) for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    config = config_type(**given)
    for field_name, uri in uris_of(config):
        if not uri:
            raise ValueError(f"{flag_of(config_type, field_name)}: expected a path or URI, got nothing")
    return config, line.storage_options


def flag_of(config_type: type[Any], field_name: str) -> str:
    """The flag of a field, such as --image-root; the name of a positional argument, such as OUT."""
    hint = get_type_hints(config_type, include_extras=True)[field_name]
    if _POSITIONAL in getattr(hint, "__metadata__", ()):
        return field_name.upper()
    return f"--{field_name.replace('_', '-')}"


def _command_line(config_type: type[Any]) -> type[Any]:
    """The Config with --storage-options as one more field, and with the help texts for tyro."""
    hints, texts = get_type_hints(config_type, include_extras=True), _docstrings(config_type)
    fields: list[Any] = [("storage_options", _StorageOptions, dataclasses.field(default=None))]
    for field in dataclasses.fields(config_type):
        hint: Any = hints[field.name]
        text = texts.get(field.name)
        no_default = field.default in (None, ()) or (text is not None and "default: " in text)
        shown = tyro.conf.arg(
            help=text,
            metavar=_metavar(config_type, field.name),
            help_behavior_hint="" if no_default else None,
        )
        default = dataclasses.field(default=field.default, default_factory=field.default_factory)
        fields.append((field.name, Annotated[hint, shown], default))
    return dataclasses.make_dataclass("CommandLine", fields, bases=(config_type,), frozen=True, kw_only=True)


def _metavar(config_type: type[Any], field_name: str) -> str | None:
    """The name of a field's value in the help, for positional arguments, paths and fields that may be None.

    None for tyro's own choice, which names the None of `int | None` as if it could be written.
    """
    if not (flag := flag_of(config_type, field_name)).startswith("--"):
        return flag
    uri_field = uri_fields(config_type).get(field_name)
    if uri_field is None:
        kinds = set(get_args(get_type_hints(config_type)[field_name]))
        return next((kind.__name__.upper() for kind in (int, float, str) if kinds == {kind, NoneType}), None)
    several = "[,...]" if get_origin(get_type_hints(config_type)[field_name]) is tuple else ""
    value = "PATH" if uri_field.local else "PATH|URI"
    return ("" if uri_field.names is None else "NAME|") + value + several


def _docstrings(config_type: type[Any]) -> dict[str, str]:
    """The text below each field of a dataclass and of those it inherits from, as one line, by the field's name."""
    texts = {}
    for base in filter(dataclasses.is_dataclass, reversed(config_type.__mro__)):
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # a dataclass made without source code
            continue
        assert isinstance(definition, ast.ClassDef)
        for field, below in pairwise(definition.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return texts


def _refuse_repeated_lists(config_type: type[Any], argv: Sequence[str]) -> None:
    """ValueError for a flag of several values that occurs more than once: the last would replace the others."""
    flags = [word.partition("=")[0] for word in argv]
    for name, kind in get_type_hints(config_type).items():
        if get_origin(kind) is tuple and flags.count(flag := f"--{name.replace('_', '-')}") > 1:
            raise ValueError(f"{flag} is given more than once: give all its values to one")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the block, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def as_json(config: Any) -> dict[str, Any]:
    """The settings of a Config by field name, as JSON values with the secrets in URIs redacted.

    Fields of a nested configuration are on the same level as all others, as on the command line.
    """
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        settings |= as_json(value) if dataclasses.is_dataclass(value) else {field.name: _redacted(value)}
    return settings


def _redacted(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_redacted, value))
    return redacted(value) if isinstance(value, str) else value
