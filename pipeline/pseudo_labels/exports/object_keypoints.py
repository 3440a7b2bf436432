"""The keypoints of objects, gathered from the pairs that they are in: kept on the disk, so that memory stays flat.

Labels of several pairs may place the same keypoint of an object differently: the most probable place is kept, the first
of equally probable ones. An object is told from others by its image, category and box.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.pseudo_labels.exports.image_files import ImageFile

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE images (id INTEGER PRIMARY KEY, name TEXT UNIQUE, width INTEGER, height INTEGER);
CREATE TABLE objects (id INTEGER PRIMARY KEY, image INTEGER, category TEXT, box TEXT, UNIQUE (image, category, box));
CREATE TABLE names (category TEXT, name TEXT, PRIMARY KEY (category, name)) WITHOUT ROWID;
CREATE TABLE keypoints (object INTEGER, name TEXT, x REAL, y REAL, probability REAL, PRIMARY KEY (object, name))
    WITHOUT ROWID;
"""
_MORE_PROBABLE = """
INSERT INTO keypoints VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
    SET x = excluded.x, y = excluded.y, probability = excluded.probability WHERE excluded.probability > probability
"""


@dataclass(frozen=True, kw_only=True)
class ObjectAnnotation:
    """One object of one image."""

    id: int
    image_id: int
    image: str
    """Name of the image's file."""
    size_wh: tuple[int, int]
    category: str
    box_xyxy: list[float]
    keypoints: dict[str, tuple[float, float, float]]
    """x, y in pixels and the probability by the keypoint's id."""


class ObjectKeypoints:
    """A scratch file in `folder`; remove it with close."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / ".keypoints.sqlite"
        self._base = sqlite3.connect(self._file)
        self._base.executescript(_TABLES)

    def add_pair(self, row: Mapping[str, Any], images: dict[str, ImageFile], categories: dict[str, str]) -> None:
        """Add the points of both sides of a PAIRS row. A label without a probability is certain.

        images, categories: of the sides source and target.
        """
        names = ids_of(row)
        probability = row["keypoint_probability"] or [1.0] * len(names)
        for side, image in images.items():
            category, box = categories[side], row[f"{side}_box_xyxy"] or [0, 0, *image.size.shown_wh]
            key = self._object(image, category, json.dumps(box))
            points = zip(names, row[f"{side}_xy_px"], probability, strict=True)
            self._base.executemany(_MORE_PROBABLE, ((key, name, x, y, p) for name, (x, y), p in points))
            self._base.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", ((category, name) for name in names))

    def images(self) -> Iterator[tuple[int, str, int, int]]:
        """(id, name of the file, width, height) of every image, by id."""
        yield from self._base.execute("SELECT id, name, width, height FROM images ORDER BY id")

    def categories(self) -> dict[str, list[str]]:
        """The keypoint ids of every category; ids that are numbers are in order of the numbers."""
        rows = self._base.execute("SELECT category, name FROM names ORDER BY category, name")
        return {
            category: sorted((name for _, name in group), key=_number_first)
            for category, group in groupby(rows, lambda row: row[0])
        }

    def read(self) -> Iterator[ObjectAnnotation]:
        """All objects, by id, which is in order of their first pair."""
        rows = self._base.execute(
            "SELECT objects.id, images.id, images.name, width, height, category, box, keypoints.name, x, y, probability"
            " FROM objects JOIN images ON images.id = image JOIN keypoints ON object = objects.id ORDER BY objects.id"
        )
        for head, group in groupby(rows, lambda row: row[:7]):
            yield ObjectAnnotation(
                id=head[0],
                image_id=head[1],
                image=head[2],
                size_wh=(head[3], head[4]),
                category=head[5],
                box_xyxy=json.loads(head[6]),
                keypoints={name: (x, y, p) for *_, name, x, y, p in group},
            )

    def close(self) -> None:
        """Remove the file."""
        self._base.close()
        self._file.unlink()

    def _object(self, image: ImageFile, category: str, box: str) -> int:
        self._base.execute(
            "INSERT OR IGNORE INTO images (name, width, height) VALUES (?, ?, ?)", (image.name, *image.size.shown_wh)
        )
        (image_id,) = self._base.execute("SELECT id FROM images WHERE name = ?", (image.name,)).fetchone()
        key = (image_id, category, box)
        self._base.execute("INSERT OR IGNORE INTO objects (image, category, box) VALUES (?, ?, ?)", key)
        found = self._base.execute("SELECT id FROM objects WHERE image = ? AND category = ? AND box = ?", key)
        return found.fetchone()[0]


def ids_of(row: Mapping[str, Any]) -> list[str]:
    """The ids of a row's keypoints, their numbers where they have none."""
    return row["keypoint_id"] or [str(number) for number in range(len(row["source_xy_px"]))]


def _number_first(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isascii() and name.isdigit() and len(name) < 10 else (10**10, name)
