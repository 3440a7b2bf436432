"""Lists in the text of one cell, as JSON, Python, NumPy, pandas, DuckDB and PostgreSQL write them."""

import ast
import json
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

_DEEPEST = 8
_TOKEN = re.compile(
    r"""\s*(?:(?P<open>[\[({])|(?P<close>[\])}])|(?P<comma>,)"""
    r"""|(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[^\s,\[\](){}"']+))""",
    re.DOTALL,
)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_NULLS = ("None", "null", "NULL", "<NA>")


@dataclass
class _List:
    """A list that is being read."""

    opening: str
    is_call: bool
    """Whether it holds the arguments of a call, array(...) or float32(...), whose first one is the value."""
    items: list[Any] = field(default_factory=list)
    has_comma: bool = False
    after_word: bool = False
    """Whether the last item is a word without quotation marks, and no comma follows it."""
    skips_next: bool = False
    """Whether the next item is the value of a keyword, dtype='<U5'."""

    def add(self, item: Any, *, is_word: bool = False) -> None:
        if self.skips_next:
            self.skips_next = False
        elif is_word and self.after_word and not (_is_number(item) and _is_number(self.items[-1])):
            self.items[-1] += f" {item}"  # a name with a space, which DuckDB writes without quotation marks
        else:
            self.items.append(item)
            self.after_word = is_word

    def value(self) -> Any:
        is_value = self.is_call or (self.opening == "(" and not self.has_comma)
        return self.items[0] if is_value and self.items else self.items


def is_list(text: str) -> bool:
    """Whether a text begins as a list does: with a bracket, or as a call such as array([1, 2])."""
    return re.match(r"\s*(?:[\w.]+\()?[\[({]", text) is not None


def read_list(text: str) -> list[Any]:
    """The list that a text holds: of lists, texts and None. Numbers stay text.

    Items are separated by commas or by blanks. Raises ValueError if it is no list, and where NumPy left values out.
    """
    outer = _List(opening="", is_call=False)
    stack, position, name = [outer], 0, ""
    while position < len(text.rstrip()):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError("it is no list")
        position = token.end()
        top, word = stack[-1], token["word"]
        if token["open"]:
            if len(stack) > _DEEPEST:
                raise ValueError(f"it has lists in more than {_DEEPEST} others")
            stack.append(_List(opening=token["open"], is_call=bool(name)))
            name = ""
        elif token["close"]:
            if token["close"] != _CLOSING.get(top.opening):
                raise ValueError("its brackets do not match")
            stack.pop()
            stack[-1].add(top.value())
            stack[-1].after_word = False
        elif token["comma"]:
            top.has_comma, top.after_word = True, False
        elif token["quoted"]:
            top.add(_unquoted(token["quoted"]))
        elif word in ("...", "…"):
            raise ValueError("values are left out, as NumPy prints long arrays")
        elif text[position : position + 1] == "(":
            name = word
        elif "=" in word and top.is_call:
            top.skips_next = word.endswith("=")
        else:
            top.add(None if word in _NULLS else word, is_word=word not in _NULLS)
    if len(stack) > 1 or len(outer.items) != 1 or not isinstance(outer.items[0], list):
        raise ValueError("it is no list")
    return outer.items[0]


def _unquoted(text: str) -> str:
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError) as error:
            raise ValueError("a text in it is no text") from error


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True
