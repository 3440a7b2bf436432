"""Random numbers as a function of their use (name, seed, step, ...): a resumed run draws the same ones."""

import hashlib

import torch
from torch import Generator


def generator_of(*use: str | int) -> Generator:
    """A new CPU generator seeded by its use, such as ("augment", seed, step, slot); uses are independent."""
    digest = hashlib.blake2b("/".join(map(str, use)).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big"))


def uniform(generator: Generator, low: float | int, high: float | int) -> float:
    """One float64 number, uniform in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def chance(generator: Generator, probability: float) -> bool:
    """True with this probability, 0..1."""
    return uniform(generator, 0, 1) < probability
