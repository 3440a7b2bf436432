import pyarrow as pa
from labelled import PROVENANCE, labelled_row

from pipeline.pseudo_labels.data_card import data_card, flat
from pipeline.pseudo_labels.exports.exported import Exported
from schemas.pairs import PAIRS


def card(*rows: dict, **provenance) -> str:
    exported = Exported(notes=["A note."])
    exported.labels.add(pa.Table.from_pylist(list(rows), PAIRS))
    exported.left_out["not_found"] = 3
    return data_card("some form", exported, {**PROVENANCE, **provenance})


def test_counts_and_expected_precision():
    text = card(labelled_row("one", "a", "b", keypoint_probability=[0.75, 1.0, 1.0]), labelled_row("two", "c", "d"))

    assert "| pairs | 2 |" in text
    assert "| labels | 6 |" in text
    assert "| expected precision | 88.5 % (" in text
    assert "* A note." in text
    assert "| cat | 2 | 6 | 88.5 % (" in text
    assert "| matcher | nemf-small |" in text
    assert "| not_found | 3 |" in text
    assert "## Licence" in text


def test_texts_of_strangers_stay_in_their_cell():
    text = card(labelled_row("one", "a", "b", category="a|b\n<script>"), note="x | y")

    assert "| a\\|b &lt;script> | 1 | 3 |" in text
    assert "| note | x \\| y |" in text


def test_many_categories_are_cut_and_counted():
    text = card(*(labelled_row(f"{n}", "a", "b", category=f"{n:03d}") for n in range(203)))

    assert "| 199 |" in text
    assert "| 200 |" not in text
    assert "and 3 more categories." in text


def test_provenance_inside_provenance_has_both_names():
    given = {"a": 1, "b": {"c": 0.123456789, "d": None, "e": ["x", "y"]}}
    assert list(flat(given)) == [("a", "1"), ("b: c", "0.123457"), ("b: e", "x, y")]
