"""The worker that packs training images which are kept: a thin shell around `shard_of`, importable without pyarrow."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from actors.messages import KeptChunk


class ShardsActor:
    """Turns the images of a step into one file."""

    def pack(self, chunks: tuple[KeptChunk, ...], *images: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """({"images", "seconds"}, see `shard_of`)."""
        from actors.shards.shard import shard_of

        start = time.perf_counter()
        shard = shard_of(chunks, images)
        return {"images": sum(len(chunk.samples) for chunk in chunks), "seconds": time.perf_counter() - start}, shard
