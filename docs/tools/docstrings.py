"""Shows the arguments that a docstring describes, lines that begin with `name: `, as a list of their own."""

import re
from typing import Any

import griffe


class Arguments(griffe.Extension):
    """Runs on every function whose docstring is shown."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Rewrites the function's docstring."""
        if func.docstring:
            func.docstring.value = with_list(func.docstring.value, {parameter.name for parameter in func.parameters})


def with_list(text: str, arguments: set[str]) -> str:
    """The docstring with a list item for every line that begins with the name of an argument and a colon."""
    lines: list[str] = []
    in_list = False
    for line in text.splitlines():
        described = re.match(r"(\w+): (.*)", line)
        if described and described[1] in arguments:
            lines += [*([] if in_list else [""]), f"* `{described[1]}`: {described[2]}"]
            in_list = True
        else:
            ends = in_list and line != "" and not line.startswith("    ")
            lines += ["", line] if ends else [line]
            in_list = in_list and not ends
    return "\n".join(lines)
