"""Python's collector of cyclic garbage while a worker is made: it rests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 50_000  # new ones between two rounds; Python's default is 700


@contextmanager
def rarely_collecting() -> Iterator[None]:
    """Within it the collector makes few rounds: a quarter of the time that a worker's imports take goes into rounds that find nothing.

    It does not stop: what a constructor leaves in cycles, memory of a GPU perhaps, is found as ever, only later.
    """
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
