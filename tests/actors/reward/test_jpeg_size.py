"""JPEG size equals a direct encoding, in kilobytes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors.messages import Prompt
from actors.reward.kinds.jpeg_size import JpegSizeOptions

NOISE = np.random.default_rng(3).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
PROMPT = Prompt("0", "whatever")


@pytest.mark.parametrize("quality", [95, 30])
def test_it_is_the_size_of_the_file_in_thousands_of_bytes(tmp_path: Path, quality: int):
    expected = []
    for image in NOISE:
        Image.fromarray(image).save(tmp_path / "image.jpg", quality=quality)
        expected.append((tmp_path / "image.jpg").stat().st_size / 1000)
    large = JpegSizeOptions(quality=quality).load().score(NOISE, PROMPT)
    small = JpegSizeOptions(quality=quality, prefers="small").load().score(NOISE, PROMPT)
    assert large.rewards_K == tuple(expected)
    assert small.rewards_K == tuple(-size for size in expected)


def test_noise_is_larger_than_a_flat_image():
    images = np.stack([NOISE[0], np.full_like(NOISE[0], 128)])
    noise, flat = JpegSizeOptions().load().score(images, PROMPT).rewards_K
    assert noise > 2 * flat
