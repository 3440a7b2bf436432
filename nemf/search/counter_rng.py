"""A counter-based random number generator: each number is a pure function of (seed, pair, iteration, pixel).

So a pixel's numbers do not depend on which other pixels, pairs or iterations are computed, nor in which order.
"""

import hashlib

from jaxtyping import Float, Int64
from torch import Tensor, stack

_BITS = 24  # the bits that a float32 in [0, 1) holds exactly


def pair_key(seed: int, pair_id: str) -> int:
    """The 64-bit key of a pair in `uniform`."""
    digest = hashlib.sha256(f"{seed} {pair_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def uniform(pair_keys: Int64[Tensor, " b"], iteration: int, pixel: Int64[Tensor, "b n"]) -> Float[Tensor, "b n 2"]:
    """Two numbers in [0, 1) for each pixel of each pair; `pixel` is its index in the image, row by row."""
    iteration_keys = _mix(pair_keys + _as_signed(iteration * 0x9E3779B97F4A7C15))[:, None]
    bits = [_mix(_mix(pixel * 2 + axis) ^ iteration_keys) for axis in (0, 1)]
    return stack([_shift(word, 64 - _BITS).float() / 2**_BITS for word in bits], dim=-1)


def _mix(state: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), after one step of its sequence."""
    state = state + _as_signed(0x9E3779B97F4A7C15)
    state = (state ^ _shift(state, 30)) * _as_signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift(state, 27)) * _as_signed(0x94D049BB133111EB)
    return state ^ _shift(state, 31)


def _shift(state: Int64[Tensor, "*n"], bits: int) -> Int64[Tensor, "*n"]:
    """Shifted right as if it were unsigned."""
    return (state >> bits) & (2 ** (64 - bits) - 1)


def _as_signed(number: int) -> int:
    """The signed number of the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63
