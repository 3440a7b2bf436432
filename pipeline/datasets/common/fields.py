"""Reading values of unchecked records: each value with its expected type, or a DataError."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeGuard, TypeVar

from pipeline.datasets.common.interface import Box, DataError, Points
from pipeline.io import storage

Value = TypeVar("Value")

_FURTHEST_PX = 1e9


class EmptyBoxError(DataError):
    """A box without area."""


class Fields:
    """One record (a JSON object, a row of a table). Every error names the file and row, the field, and its value."""

    def __init__(self, record: Mapping[str, Any], where: str) -> None:
        self.record = record
        self.where = where

    def has(self, name: str) -> bool:
        """Whether the field is present and not empty. DataError if the record is not a mapping."""
        if not isinstance(self.record, Mapping):
            self._fail("wrong type", f"expected a record, got {_short(self.record)}")
        return self.record.get(name) not in (None, "")

    def optional(self, name: str, read: Callable[[str], Value]) -> Value | None:
        """`read(name)`, where `read` is one of the methods below; None if the field is absent or empty."""
        return read(name) if self.has(name) else None

    def text(self, name: str) -> str:
        """Text that can be written as UTF-8, not empty."""
        value = self._get(name, "text")
        if not isinstance(value, str):
            self._wrong_type(name, "text")
        self._check_encodable(name, value)
        return value

    def texts(self, name: str) -> list[str]:
        """A list of text."""
        value = self._get(name, "a list of text")
        if not (isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)):
            self._wrong_type(name, "a list of text")
        self._check_encodable(name, *value)
        return list(value)

    def lists_of_texts(self, name: str) -> list[list[str]]:
        """A list of lists of text."""
        return [part.texts(name) for part in self._parts(name, "a list of lists of text")]

    def lists_of_points(self, name: str) -> list[Points]:
        """A list of lists of finite points [x, y]."""
        return [part.points(name) for part in self._parts(name, "a list of lists of points")]

    def levels(self, name: str, lowest: int, highest: int) -> list[int]:
        """A list of whole numbers in lowest..highest."""
        expected = f"a list of whole numbers in {lowest}..{highest}"
        value = self._get(name, expected)
        if not isinstance(value, list):
            self._wrong_type(name, expected)
        if not all(_is_number(part) and part in range(lowest, highest + 1) for part in value):
            self._wrong_value(name, expected)
        return [int(part) for part in value]

    def shares(self, name: str) -> list[float]:
        """A list of numbers in 0..1."""
        value = self._get(name, "a list of numbers in 0..1")
        if not isinstance(value, list) or not all(map(_is_number, value)):
            self._wrong_type(name, "a list of numbers in 0..1")
        if not all(0 <= part <= 1 for part in value):
            self._wrong_value(name, "a list of numbers in 0..1")
        return [float(part) for part in value]

    def records(self, name: str) -> list["Fields"]:
        """A list of records. Each is checked when it is read, so that one bad record does not reject the others."""
        value = self._get(name, "a list of records")
        if not isinstance(value, list):
            self._wrong_type(name, "a list of records")
        return [Fields(record, f"{self.where}, {name}[{number}]") for number, record in enumerate(value)]

    def data(self, name: str) -> bytes:
        """Bytes, at least one."""
        value = self._get(name, "bytes")
        return value if isinstance(value, bytes) and value else self._wrong_type(name, "bytes")

    def identity(self, name: str) -> str:
        """An id as text: text, or a whole number, which may be written as a float."""
        expected = "an id, which is a whole number or text"
        value = self._get(name, expected)
        if isinstance(value, str):
            return self.text(name)
        if not _is_number(value) or value != value or (isinstance(value, float) and not value.is_integer()):
            self._wrong_type(name, expected)
        return str(int(value))

    def integer(self, name: str) -> int:
        value = self._get(name, "a whole number")
        return value if _is_number(value) and isinstance(value, int) else self._wrong_type(name, "a whole number")

    def boolean(self, name: str) -> bool:
        value = self._get(name, "true or false")
        return value if isinstance(value, bool) else self._wrong_type(name, "true or false")

    def level(self, name: str, highest: int) -> int | None:
        """A whole number in 0..highest, or None where the field is absent."""
        if not self.has(name):
            return None
        level = self.integer(name)
        if not 0 <= level <= highest:
            self._wrong_value(name, f"a level in 0..{highest}")
        return level

    def points(self, name: str) -> Points:
        """A list of finite points [x, y], possibly empty."""
        return [(x, y) for x, y in self._tuples(name, self._get(name, "a list of points"), "[x, y]", 2)]

    def point(self, name: str) -> tuple[float, float]:
        """One finite point [x, y]."""
        ((x, y),) = self._tuples(name, [self._get(name, "a point [x, y]")], "[x, y]", 2)
        return x, y

    def keypoints_xyv(self, name: str) -> list[tuple[float, float, float]]:
        """COCO's keypoints, [x, y, v] each or all in one flat list; where v is 0, x and y are not read and become 0."""
        value = self._get(name, "a list of keypoints")
        if isinstance(value, list) and len(value) % 3 == 0 and not any(isinstance(part, list) for part in value):
            value = [value[start : start + 3] for start in range(0, len(value), 3)]
        if isinstance(value, list):
            value = [[0, 0, 0] if _is_hidden(point) else point for point in value]
        return [(x, y, v) for x, y, v in self._tuples(name, value, "[x, y, v]", 3)]

    def box(self, name: str) -> Box:
        """[x_min, y_min, x_max, y_max], finite and not empty."""
        expected = "a box [x_min, y_min, x_max, y_max]"
        x_min, y_min, x_max, y_max = self._four_numbers(name, expected)
        if x_min >= x_max or y_min >= y_max:
            raise self._empty_box(name, expected)
        return x_min, y_min, x_max, y_max

    def boxes(self, name: str) -> list[Box]:
        """A list of boxes [x_min, y_min, x_max, y_max], finite and not empty; possibly no box."""
        expected = "a list of boxes [x_min, y_min, x_max, y_max]"
        boxes = self._tuples(name, self._get(name, expected), "[x_min, y_min, x_max, y_max]", 4)
        if any(x_min >= x_max or y_min >= y_max for x_min, y_min, x_max, y_max in boxes):
            raise self._empty_box(name, expected)
        return [(x_min, y_min, x_max, y_max) for x_min, y_min, x_max, y_max in boxes]

    def box_xywh(self, name: str) -> Box:
        """[x, y, width, height] with positive sizes, as x_min, y_min, x_max, y_max."""
        expected = "a box [x, y, width, height]"
        x, y, width, height = self._four_numbers(name, expected)
        if width <= 0 or height <= 0:
            raise self._empty_box(name, expected)
        return x, y, x + width, y + height

    def size_wh(self, width: str, height: str) -> tuple[int, int] | None:
        """Width and height of an image; None unless both are whole numbers above 0, since tools leave them out."""
        return _size_wh([self.record.get(width), self.record.get(height)])

    def size_of_list(self, name: str) -> tuple[int, int] | None:
        """Width and height of an image in a list [width, height, ...]; None as in size_wh."""
        value = self.record.get(name)
        return _size_wh(value[:2]) if isinstance(value, list) else None

    def real(self, name: str) -> float:
        """A finite number."""
        value = self._get(name, "a number")
        if not _is_number(value):
            self._wrong_type(name, "a number")
        if not _is_finite(value):
            self._fail("not finite", f"field {name} is {value}")
        return float(value)

    def number(self, name: str) -> float:
        """A finite number, given as text."""
        return self._from_text(name, [self.text(name)], "a number")[0]

    def numbers(self, name: str) -> list[float]:
        """Finite numbers, given as text such as '1.5;2;3'."""
        return self._from_text(name, self.text(name).split(";"), "numbers separated by ';'")

    def same_length(self, **lists: Sequence[Any]) -> None:
        """DataError unless the lists, given by their field names, are equally long."""
        if len({len(values) for values in lists.values()}) > 1:
            lengths = ", ".join(f"{name} has {len(values)}" for name, values in lists.items())
            self._fail("unequal keypoint lists", f"{lengths}; they must be equally long")

    def _from_text(self, name: str, parts: list[str], expected: str) -> list[float]:
        try:
            values = [float(part) for part in parts]
        except ValueError:
            self._wrong_type(name, expected)
        if not all(map(_is_finite, values)):
            self._fail("not finite", f"field {name} is {_short(self.record[name])}")
        return values

    def _parts(self, name: str, expected: str) -> list["Fields"]:
        """Each part of a list as a record of this field."""
        value = self._get(name, expected)
        if not isinstance(value, list):
            self._wrong_type(name, expected)
        return [Fields({name: part}, self.where) for part in value]

    def _tuples(self, name: str, value: Any, form: str, size: int) -> list[list[float]]:
        if not isinstance(value, (list, tuple)):
            self._wrong_type(name, f"a list of {form}")
        for number, point in enumerate(value):
            if not (isinstance(point, (list, tuple)) and len(point) == size and all(map(_is_number, point))):
                self._fail("wrong type", f"field {name}, point {number}: expected {form}, got {_short(point)}")
            if not all(map(_is_finite, point)):
                self._fail("not finite", f"field {name}, point {number} is {_short(point)}")
        return [[float(number) for number in point] for point in value]

    def _four_numbers(self, name: str, expected: str) -> Box:
        value = self._get(name, expected)
        if not (isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_number, value))):
            self._wrong_type(name, expected)
        if not all(map(_is_finite, value)):
            self._wrong_value(name, f"{expected} of finite numbers")
        a, b, c, d = map(float, value)
        return a, b, c, d

    def _check_encodable(self, name: str, *texts: str) -> None:
        """DataError for text that UTF-8 cannot encode: JSON can hold half of a surrogate pair, '\\ud800'."""
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                self._fail("wrong value", f"field {name}: expected text that UTF-8 can hold, got {_short(text)}")

    def _get(self, name: str, expected: str) -> Any:
        if not self.has(name):
            self._fail("missing field", f"field {name}: expected {expected}, but it is absent or empty")
        return self.record[name]

    def _wrong_type(self, name: str, expected: str) -> NoReturn:
        self._fail("wrong type", f"field {name}: expected {expected}, got {_short(self.record[name])}")

    def _wrong_value(self, name: str, expected: str) -> NoReturn:
        self._fail("wrong value", f"field {name}: expected {expected}, got {_short(self.record[name])}")

    def _empty_box(self, name: str, expected: str) -> EmptyBoxError:
        detail = f"field {name}: expected {expected} that is not empty, got {_short(self.record[name])}"
        return EmptyBoxError(self.where, "wrong value", detail)

    def _fail(self, reason: str, detail: str) -> NoReturn:
        raise DataError(self.where, reason, detail)


def read_json(uri: str) -> Any:
    """The content of a JSON file. Raises DataError if it is not JSON, FileNotFoundError if there is no file."""
    try:
        return json.loads(storage.read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise DataError(uri, "malformed JSON", str(error)) from error


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _size_wh(values: list[Any]) -> tuple[int, int] | None:
    whole = [int(value) for value in values if _is_number(value) and _is_finite(value) and value == int(value) > 0]
    return (whole[0], whole[1]) if len(whole) == 2 else None


def _is_hidden(point: Any) -> bool:
    """Whether [x, y, v] has v = 0."""
    return isinstance(point, list) and len(point) == 3 and _is_number(point[2]) and point[2] == 0


def _is_finite(value: float) -> bool:
    """False for NaN and infinities, and for what would become one as float32."""
    return -_FURTHEST_PX < value < _FURTHEST_PX


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
