"""Loading the objects that users name in modules of their own, as 'package.module:name'."""

import importlib
from typing import Any


def load_attribute(location: str, what: str) -> Any:
    """The attribute at 'package.module:name'; None if the module has none of that name.

    what: what is loaded, such as "data set 'mine:pairs'"; every error begins with it.
    Raises ValueError if the module, or one that it imports, is not there or fails when it is imported.
    """
    module_name, _, attribute = location.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name:
            is_own = f"{module_name}.".startswith(f"{error.name}.")
            imported = "" if is_own else f", which {module_name} imports"
            raise ValueError(f"{what}: there is no module {error.name!r} on Python's path{imported}") from error
        raise ValueError(f"{what}: {module_name} cannot be imported ({type(error).__name__}: {error})") from error
    return getattr(module, attribute, None)
