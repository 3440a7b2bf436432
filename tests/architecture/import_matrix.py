"""The number of imports between rooms: `python tests/architecture/import_matrix.py` prints the table.

A room is a folder of pipeline, and each of jobs, nemf and schemas. A number counts pairs of files (importer, imported);
rows import columns, and rooms are in order from the ground up, so every number is left of the diagonal.
"""

from collections import Counter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
ROOMS = (
    "schemas",
    "nemf",
    "io",
    "visualization",
    "datasets",
    "runs",
    "cluster",
    "matching",
    "evaluation",
    "training",
    "pseudo_labels",
    "pairing",
    "report",
    "jobs",
)
"""The rooms from the lowest up: a room imports only rooms before it."""


def room_of(module: str) -> str | None:
    """The room of a module's dotted name; None for the empty package `pipeline` itself."""
    package, *rest = module.split(".")
    if package != "pipeline":
        return package
    return rest[0] if rest else None


def import_matrix() -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> pairs of files, without imports inside a room."""
    graph = grimp.build_graph("jobs", "pipeline", "nemf", "schemas", cache_dir=None)
    pairs = (
        (room_of(module), room_of(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    )
    return Counter(
        (importer, imported) for importer, imported in pairs if importer and imported and importer != imported
    )


def files_and_lines(room: str) -> tuple[int, int]:
    """The number of Python files of a room, without empty __init__ files, and of their lines."""
    folder = ROOT / room if (ROOT / room).is_dir() else ROOT / "pipeline" / room
    texts = [text for file in folder.rglob("*.py") if (text := file.read_text("utf-8"))]
    return len(texts), sum(text.count("\n") for text in texts)


def as_markdown() -> str:
    """The matrix as a Markdown table."""
    matrix = import_matrix()
    lines = [
        "| imports | " + " | ".join(ROOMS[:-1]) + " | files | lines |",
        "|---|" + "---:|" * (len(ROOMS) + 1),
    ]
    for row in ROOMS:
        numbers = [str(matrix[row, column] or "") for column in ROOMS[:-1]]
        files, n_lines = files_and_lines(row)
        lines.append(f"| {row} | " + " | ".join(numbers) + f" | {files} | {n_lines:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown())
