"""Files that were damaged: bytes replaced, inserted, removed or cut off anywhere."""

from hypothesis import strategies as st

_NUMBERS = [
    value.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("little", "big")
]
"""Byte sequences that often cause faults in parsers."""
_HOWS = ("replace",) * 12 + ("insert", "remove", "cut")
"""Edits of a file, most of which keep its length: a file whose content is shifted is refused at its first byte."""
_EDIT = st.tuples(
    st.sampled_from(_HOWS), st.integers(0, 2**20 - 1), st.binary(min_size=1, max_size=4) | st.sampled_from(_NUMBERS)
)


def damaged(files: dict[str, bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """The name of a file, and its content after a few edits."""
    return st.builds(_edited, st.sampled_from(list(files.items())), st.lists(_EDIT, min_size=1, max_size=4))


def _edited(file: tuple[str, bytes], edits: list[tuple[str, int, bytes]]) -> tuple[str, bytes]:
    name, data = file
    for how, place, new in edits:
        at = place * len(data) >> 20
        if how == "replace":
            data = data[:at] + new + data[at + len(new) :]
        elif how == "insert":
            data = data[:at] + new + data[at:]
        elif how == "remove":
            data = data[:at] + data[at + len(new) :]
        else:
            data = data[:at]
    return name, data
