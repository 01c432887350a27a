"""Pictures of every kind as RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from actors.pictures import rgb

GREYS = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_rgb_stays_as_it_is_and_can_be_written_to():
    pixels = rgb(Image.fromarray(COLOURS))
    assert np.array_equal(pixels, COLOURS)
    assert (pixels.dtype, pixels.flags.writeable, pixels.flags.c_contiguous) == (np.uint8, True, True)


def test_grey_is_three_equal_channels():
    assert np.array_equal(rgb(Image.fromarray(GREYS)), np.stack([GREYS] * 3, axis=-1))


def test_black_and_white_is_0_and_255():
    mask = GREYS > 127
    assert np.array_equal(rgb(Image.fromarray(mask)), np.stack([mask * np.uint8(255)] * 3, axis=-1))


@pytest.mark.parametrize(("alpha", "tolerance"), [(0, 0), (255, 0), (100, 1)])
def test_what_is_transparent_lies_on_white(alpha: int, tolerance: int):
    layered = np.concatenate([COLOURS, np.full((5, 7, 1), alpha, np.uint8)], axis=-1)
    expected = (COLOURS * (alpha / 255) + 255 * (1 - alpha / 255)).round()
    assert np.abs(rgb(Image.fromarray(layered)) - expected).max() <= tolerance


def test_grey_with_alpha_and_palettes_with_a_transparent_colour_lie_on_white():
    layered = np.stack([GREYS, np.zeros_like(GREYS)], axis=-1)
    assert (rgb(Image.fromarray(layered)) == 255).all()
    palette = Image.fromarray(GREYS % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.info["transparency"] = 1
    expected = np.where((GREYS % 2 == 1)[..., None], 255, [10, 20, 30])
    assert np.array_equal(rgb(palette), expected)


def test_a_photograph_stands_upright():
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    assert np.array_equal(rgb(Image.open(file)), np.rot90(COLOURS, -1))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_an_error(dtype: type):
    with pytest.raises(ValueError, match="8-bit"):
        rgb(Image.fromarray(GREYS.astype(dtype)))
