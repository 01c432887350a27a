"""Every random number is a hash of what it is for: never of a worker, an attempt or the clock."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*what: int | str) -> int:
    """A seed in [0, 2**63) from the parts that name its purpose, such as (run seed, "noise", epoch, prompt id, sample).

    Parts are length-prefixed and typed, so that ("a", "bc") and ("ab", "c"), or 1 and "1", give different seeds.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in what:
        encoded = f"{type(part).__name__}:{part}".encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest(), "big") >> 1


def stream_of(seed: int) -> np.random.Generator:
    """The random numbers of a seed: the same on every machine, with one version of numpy.

    Philox counts, and its key is the whole seed: other seeds are other streams. (torch's generator on the CPU keeps 32 bits of a
    seed, so that of 200,000 streams some are equal.)
    """
    return np.random.Generator(np.random.Philox(key=seed))
