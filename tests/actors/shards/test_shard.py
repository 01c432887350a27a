"""A shard of kept images: lossless, with what each image was worth, in row groups, the same bytes for the same images."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.messages import KeptChunk
from actors.shards.actor import ShardsActor
from actors.shards.shard import ROW_GROUP, SCHEMA, shard_of

K = 40


def chunk_of(group: int, number: int) -> tuple[KeptChunk, np.ndarray]:
    rng = np.random.default_rng([group, number])
    samples = tuple(range(number * K, (number + 1) * K))
    chunk = KeptChunk(
        step=50,
        policy_version=48,
        group=group,
        prompt_id=f"p{group}",
        category="red",
        caption=f"a red ж {group}",
        samples=samples,
        noise_seeds=tuple(2**63 - 1 - sample for sample in samples),
        rewards_K=tuple(rng.normal(size=K).tolist()),
        advantages_K=tuple(rng.normal(size=K).tolist()),
    )
    return chunk, rng.integers(0, 256, (K, 12, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def kept() -> tuple[list[KeptChunk], list[np.ndarray]]:
    """Two groups of two chunks, and their images."""
    chunks, images = zip(*[chunk_of(group, number) for group in (0, 1) for number in (0, 1)], strict=True)
    return list(chunks), list(images)


def test_every_image_comes_back_with_what_it_was_worth(kept) -> None:
    chunks, images = kept
    table = pq.read_table(pa.BufferReader(shard_of(chunks, images)))
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert len(rows) == 4 * K
    expected = [(chunk, k, image) for chunk, each in zip(chunks, images, strict=True) for k, image in enumerate(each)]
    for row, (chunk, k, image_HWC) in zip(rows, expected, strict=True):
        picture = Image.open(io.BytesIO(row.pop("image")["bytes"]))
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), image_HWC)
        assert row == {
            "step": 50,
            "policy_version": 48,
            "group": chunk.group,
            "prompt_id": chunk.prompt_id,
            "category": "red",
            "caption": chunk.caption,
            "sample": chunk.samples[k],
            "noise_seed": chunk.noise_seeds[k],
            "reward": chunk.rewards_K[k],
            "advantage": chunk.advantages_K[k],
        }


def test_a_shard_is_read_in_parts(kept) -> None:
    file = pq.ParquetFile(pa.BufferReader(shard_of(*kept)))
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert sizes == [ROW_GROUP, ROW_GROUP, 4 * K - 2 * ROW_GROUP]


def test_the_same_images_give_the_same_bytes(kept) -> None:
    chunks, images = kept
    figures, shard = ShardsActor().pack(tuple(chunks), *images)
    assert figures["images"] == 4 * K
    assert np.array_equal(shard, shard_of(chunks, images))
    other = [*images[:-1], images[-1] ^ 1]
    assert not np.array_equal(shard, shard_of(chunks, other))


def test_the_metadata_name_every_column_as_the_datasets_library_reads_it() -> None:
    features = json.loads(SCHEMA.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == SCHEMA.names
    assert features.pop("image") == {"_type": "Image"}
    assert {feature["dtype"] for feature in features.values()} == {"int64", "string", "float64"}
    assert [field.name for field in SCHEMA.field("image").type] == ["bytes", "path"]
