"""Seeds and hashes, pure functions of their parts: the ground of the determinism contract."""

from __future__ import annotations

import hashlib

import numpy as np


def derived(*parts: int | str) -> int:
    """Return a 63-bit seed that is a pure function of ``parts``, the same on every machine."""
    return stable_hash("\x1f".join(map(str, parts)))


def stable_hash(text: str) -> int:
    """Return a 63-bit hash of a text, the same in every process (unlike ``hash``)."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def generator_for(*parts: int | str) -> np.random.Generator:
    """Return a fresh generator seeded by :func:`derived`; its stream belongs to ``parts`` alone."""
    return np.random.Generator(np.random.PCG64(derived(*parts)))
