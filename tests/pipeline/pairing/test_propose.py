import random
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.common.interface import Note, PairRow, Rejected, UnpairedImage
from pipeline.pairing import embed
from pipeline.pairing.embed import Embedded
from pipeline.pairing.nearest import rounded
from pipeline.pairing.options import PairingOptions
from pipeline.pairing.propose import with_proposed_pairs
from schemas.failures import Failure


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector of an image is planted in its URI, degrees on a circle; 'broken' cannot be read."""

    def planted(uris: list[str], options: PairingOptions) -> Embedded:
        read = [number for number, uri in enumerate(uris) if uri != "broken"]
        degrees = np.array([float(uris[number].partition("#")[0]) for number in read])
        vectors = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
        return Embedded(
            numbers=read,
            vectors=rounded(vectors.astype(np.float32)),
            digests=[uris[number].encode() for number in read],
            failures={n: Failure("decode", "corrupt", "bad") for n in range(len(uris)) if n not in read},
        )

    monkeypatch.setattr(embed, "embed_on_ray", planted)


def image(image_id: str, uri: str, **fields: Any) -> UnpairedImage:
    return UnpairedImage(where="here", image_id=image_id, uri=uri, **fields)


def propose(*items: Any, **options: Any) -> list[PairRow | Rejected | Note]:
    return list(with_proposed_pairs(items, PairingOptions(**options)))


def test_pairs_of_neighbours_with_their_columns():
    cats = [image("a", "0", category="cat", split="x"), image("b", "1", category="cat", split="y")]
    dog = image("c", "2", category="dog", split="y")
    rows = {frozenset(row.pair_id.split(":")): row for row in propose(*cats, dog, neighbours=1, neighbours_across=1)}
    assert sorted("".join(sorted(ids)) for ids in rows) == ["ab", "ac", "bc"]
    row = rows[frozenset("ab")]
    assert (row.category, row.target_category, row.level, row.split) == ("cat", None, "within category", None)
    assert {row.source_uri, row.target_uri} == {"0", "1"}
    row = rows[frozenset("bc")]
    assert row.pair_id in ("b:c", "c:b")
    assert (row.category, row.target_category) == (("cat", "dog") if row.pair_id == "b:c" else ("dog", "cat"))
    assert (row.level, row.split) == ("across categories", "y")


def test_the_box_of_an_image_goes_with_it():
    boxes = {"a": (1, 2, 3, 4), "b": None}
    (row,) = propose(image("a", "0", box_xyxy=boxes["a"]), image("b", "1"))
    assert [row.source_box_xyxy, row.target_box_xyxy] == [boxes[image_id] for image_id in row.pair_id.split(":")]


def test_images_without_categories_have_no_level():
    (row,) = propose(image("a", "0"), image("b", "1"))
    assert (row.category, row.target_category, row.level, row.where) == (None, None, None, "here")


def test_the_order_of_the_images_makes_no_difference():
    images = [image(f"i{number}", f"{number**2 % 59}#{number}") for number in range(40)]
    expected = propose(*images, neighbours=3, seed=4)
    random.Random(0).shuffle(images)
    assert propose(*images, neighbours=3, seed=4) == expected


def test_what_is_left_out_is_no_error_and_has_a_reason():
    items = [image("a", "0"), image("b", "broken"), image("c", "1"), image("d", "0")]
    rejected = [item for item in propose(*items) if isinstance(item, Rejected)]
    assert [(item.pair, item.reason, item.detail) for item in rejected] == [
        ("b", "image that cannot be read (decode: corrupt)", "bad"),
        ("d", "copy of another image", "the same bytes as a"),
    ]
    assert all(item.by_design for item in rejected)


def test_an_id_that_was_there_before_is_an_error():
    rejected, row = propose(image("a", "0"), image("a", "5"), image("b", "1"))
    assert (rejected.reason, rejected.by_design) == ("duplicate image id", False)
    assert {row.source_uri, row.target_uri} == {"0", "1"}


def test_neighbours_beyond_a_maximum_are_noted():
    note = propose(*(image(str(n), str(n)) for n in range(6)), neighbours=5, pairs_per_category=4)[-1]
    assert note == Note(where="here", what="neighbour left out by --pairs-per-category", count=11)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([image("a", "0")], r"of 1 images 0 cannot be read.*1 are left; a pair needs two"),
        ([image("a", "broken"), image("b", "broken")], r"of 2 images 2 cannot be read.*0 are left"),
        ([image("a", "0"), image("b", "0")], r"1 are copies of others and 1 are left"),
        ([image("a", "0", category="x"), image("b", "1", category="y")], r"of 2 categories; --neighbours 8 asks for"),
    ],
)
def test_no_pairs_and_why(items, message):
    with pytest.raises(ValueError, match=message):
        propose(*items)


def test_given_pairs_pass_by_and_nothing_is_embedded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(embed, "embed_on_ray")
    row = PairRow(where="here", pair_id="p", source_uri="a", target_uri="b")
    assert propose(row) == [row]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbours": -1}, "--neighbours must be at least 0; got -1"),
        ({"neighbours": 0}, "both 0"),
        ({"pairs_per_image": 0}, "--pairs-per-image must be at least 1"),
        ({"workers": (2, 1)}, "--workers is N or MIN,MAX"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PairingOptions(**options).check()


def test_an_unknown_matcher_is_an_error_before_ray_starts():
    with pytest.raises(ValueError, match="there is no matcher"):
        propose(image("a", "0"), matcher="no such/matcher")
