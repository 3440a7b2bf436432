from typing import Literal

import pytest

from nemf.options import parse_options


def test_an_option_of_several_names():
    kinds = {"precision": Literal["float32", "bfloat16"]}
    assert parse_options("x", "precision=bfloat16", kinds) == {"precision": "bfloat16"}
    with pytest.raises(ValueError, match="x: option precision must be one of float32, bfloat16; got 'half'"):
        parse_options("x", "precision=half", kinds)


def test_values_have_the_type_of_their_option():
    types = {"a": int, "b": float, "c": bool, "d": str, "e": tuple[int, ...]}
    assert parse_options("x", "", types) == {}
    expected = {"a": -7, "b": 0.01, "c": True, "d": "max", "e": (4, 1)}
    assert parse_options("x", "a=-7&b=1e-2&c=true&d=max&e=4,1", types) == expected
