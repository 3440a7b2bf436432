from schemas.matches import DIRECTIONS, directions_of, sides_of


def test_sides_of_each_direction():
    assert [sides_of(direction) for direction in DIRECTIONS] == [("source", "target"), ("target", "source")]


def test_directions_of_an_option_value():
    assert directions_of("both") == DIRECTIONS
    assert [directions_of(direction) for direction in DIRECTIONS] == [(direction,) for direction in DIRECTIONS]
