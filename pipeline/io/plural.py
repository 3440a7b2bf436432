"""Numbers of things in messages."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """'1 row', '2 rows'. many: the words for any other number than one; None for `one` with an s."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
