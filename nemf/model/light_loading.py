"""Networks are loaded and run without torch's compiler, which torch and torchvision import for little and which is
never used.

torch._dynamo and torch._inductor take as long to import as torch itself, and 150 MB, in every process that matches.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_COMPILER = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """What this block imports and calls does not import torch's compiler, if it is not imported yet.

    torch and timm mark functions that torch.compile is to leave alone, torch's optimisers end what it compiles at each
    step, and torchvision asks, when its operators are called, whether they can be compiled: three names of the
    compiler. For any other name it is imported after all.
    """
    if _COMPILER in sys.modules:
        yield
        return
    compiler, utils = _StandIn(_COMPILER), _StandIn(f"{_COMPILER}.utils")
    compiler.disable, utils.is_compile_supported = _disable, _is_compile_supported  # type: ignore[attr-defined]
    compiler.graph_break = _nothing  # type: ignore[attr-defined]
    sys.modules |= {stand_in.__name__: stand_in for stand_in in (compiler, utils)}
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """A module with the names that are set; for others the real one is imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and inspect look for such names in every module
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(__import__(self.__name__, fromlist=[name]), name)


def _remove_stand_ins() -> None:
    for name in (_COMPILER, f"{_COMPILER}.utils"):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    """The function, which torch.compile leaves alone; see torch._dynamo.disable."""
    if function is None:
        return lambda decorated: _disable(decorated, recursive, **options)

    @wraps(function)
    def disabled(*args: Any, **kwargs: Any) -> Any:
        compiler = sys.modules.get(_COMPILER)
        if compiler is None or isinstance(compiler, _StandIn):  # nothing can be compiled
            return function(*args, **kwargs)
        return compiler.disable(function, recursive, **options)(*args, **kwargs)

    return disabled


def _nothing() -> None:
    """The end of what is compiled, where nothing is."""


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are built in this block are on the meta device: they take no memory, whatever their size.

    Their weights are not initialised, which takes longer there than for real.
    """
    with without_compiler(), torch.device("meta"), _NoInitialization():
        yield


class _NoInitialization(TorchFunctionMode):
    """Leaves tensors as they are that are to be filled with random numbers."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.normal_ or getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
