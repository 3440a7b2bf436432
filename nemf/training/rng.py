"""Random numbers that depend on nothing but where they are used: a restarted run draws what it would have drawn."""

import hashlib

import torch
from torch import Generator


def generator_of(*use: str | int) -> Generator:
    """A fresh CPU generator for one use, such as ("augment", seed, step, slot); other uses get unrelated numbers."""
    digest = hashlib.blake2b("/".join(map(str, use)).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big"))


def uniform(generator: Generator, low: float | int, high: float | int) -> float:
    """One number of [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def chance(generator: Generator, probability: float) -> bool:
    """True with this probability."""
    return uniform(generator, 0, 1) < probability
