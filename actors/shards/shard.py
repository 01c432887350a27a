"""A step's training images as one Parquet file: a row per image, lossless, with what it was drawn for and what it was worth.

The columns stand in SCHEMA; its metadata make Hugging Face's `datasets` read `image` as a picture. The same rows give the same
bytes, with the same versions of pyarrow and Pillow.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from actors.messages import KeptChunk

ROW_GROUP = 64  # images
COMPRESS_LEVEL = 1  # of PNG: half the time of the default, a seventh larger
TYPES = {
    "step": pa.int64(),
    "policy_version": pa.int64(),
    "group": pa.int64(),
    "prompt_id": pa.string(),
    "category": pa.string(),
    "caption": pa.string(),
    "sample": pa.int64(),  # its number in the group
    "noise_seed": pa.int64(),
    "reward": pa.float64(),
    "advantage": pa.float64(),
}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    name: {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"} for name, kind in TYPES.items()
}
SCHEMA = pa.schema(
    {**TYPES, "image": IMAGE},
    metadata={"huggingface": json.dumps({"info": {"features": {**FEATURES, "image": {"_type": "Image"}}}})},
)


def shard_of(chunks: Sequence[KeptChunk], images: Sequence[np.ndarray]) -> np.ndarray:
    """The file, uint8; `images` gives each chunk's, uint8 [K, H, W, 3]. Besides it, a row group is in memory at a time."""
    rows = _rows(chunks, images)
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(
        file, SCHEMA, compression="zstd", use_dictionary=["prompt_id", "category", "caption"]
    ) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return np.frombuffer(file.getvalue(), np.uint8)


def _rows(chunks: Sequence[KeptChunk], images: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    for chunk, images_KHWC in zip(chunks, images, strict=True):
        columns = zip(chunk.samples, chunk.noise_seeds, chunk.rewards_K, chunk.advantages_K, images_KHWC, strict=True)
        for sample, noise_seed, reward, advantage, image_HWC in columns:
            yield {
                "step": chunk.step,
                "policy_version": chunk.policy_version,
                "group": chunk.group,
                "prompt_id": chunk.prompt_id,
                "category": chunk.category,
                "caption": chunk.caption,
                "sample": sample,
                "noise_seed": noise_seed,
                "reward": reward,
                "advantage": advantage,
                "image": {"bytes": _png(image_HWC), "path": f"{chunk.step:06d}-{chunk.group}-{sample}.png"},
            }


def _png(image_HWC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "PNG", compress_level=COMPRESS_LEVEL)
    return file.getvalue()
