import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled import PROVENANCE, labelled_row, write_images

from pipeline.pseudo_labels.labels import PROVENANCE_KEY
from pipeline.report.labels_page import render_labels
from schemas.pairs import PAIRS


def write_labels(path: Path, rows: list[dict[str, Any]], **provenance: Any) -> str:
    metadata = {**PAIRS.metadata, PROVENANCE_KEY: json.dumps({**PROVENANCE, **provenance}).encode()}
    pq.write_table(pa.Table.from_pylist(rows, PAIRS).replace_schema_metadata(metadata), path, row_group_size=3)
    return str(path)


class _Tags(HTMLParser):
    """Every tag that opens is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_numbers_and_drawn_pairs(tmp_path):
    a, b = write_images(tmp_path, "a.jpg", "b.png")
    rows = [
        labelled_row("one", a, b, keypoint_probability=[0.75, 1.0, 1.0]),
        labelled_row("two", b, a, category="dog", keypoint_probability=[0.25, 0.5, 0.5]),
    ]

    page = render_labels(write_labels(tmp_path / "labels.parquet", rows, n_judged=24))

    _Tags(page)
    assert "<title>Pseudo-labels of nemf-small</title>" in page
    assert "labels, 25.0 % of the matches that were judged" in page
    assert "66.7" in page
    assert page.count("data:image/jpeg;base64,") == 4  # one in 0.99 to 1, one in 0.7 to 0.8, two of the other pair
    headings = re.findall(r"<h2>Labels of probability (.*)</h2>", page)
    assert headings == ["0.99 to 1", "0.7 to 0.8", "0.5 to 0.7", "0 to 0.5"]
    assert "cat, 2 of 3 labels, probability 1.000<br>one" in page
    assert "1.00: 2 labels</title>" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_same_page_whatever_the_order(tmp_path):
    a, b = write_images(tmp_path, "a.jpg", "b.png")
    rows = [labelled_row(f"{number}", a, b, keypoint_probability=[0.75, 0.75, 0.875]) for number in range(20)]

    one = render_labels(write_labels(tmp_path / "labels.parquet", rows))
    other = render_labels(write_labels(tmp_path / "labels.parquet", rows[::-1]))

    assert one == other
    assert one.count("<figcaption>") == 2 * 6


def test_images_that_are_gone_are_not_drawn_and_say_why(tmp_path):
    write_images(tmp_path, "a.jpg")
    rows = [labelled_row("one", "a.jpg", "gone.png"), labelled_row("two", "a.jpg", None)]

    page = render_labels(write_labels(tmp_path / "labels.parquet", rows), image_root=str(tmp_path))

    assert "gone.png: there is no such file<br>one" in page
    assert "the row has neither target_uri nor target_image<br>two" in page


def test_texts_of_strangers_are_escaped(tmp_path):
    a, b = write_images(tmp_path, "a.jpg", "b.png")
    row = labelled_row("<b>one</b>", a, b, category="<script>alert(1)</script>")

    page = render_labels(write_labels(tmp_path / "labels.parquet", [row], run="<i>r</i>"))

    _Tags(page)
    assert "<script>" not in page
    assert "<i>r" not in page
    assert "<b>one" not in page


def test_labels_without_probabilities(tmp_path):
    a, b = write_images(tmp_path, "a.jpg", "b.png")

    page = render_labels(write_labels(tmp_path / "l.parquet", [labelled_row("one", a, b, keypoint_probability=None)]))

    assert "not known" in page
    assert "<figcaption>" not in page


def test_another_manifest_is_refused(tmp_path):
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([labelled_row("one", "a", "b")], PAIRS), file)

    with pytest.raises(ValueError, match="holds no pseudo-labels"):
        render_labels(str(file))
