"""Sigmas and packing against closed forms."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from actors.diffusion.families.packing import pack, unpack
from actors.diffusion.schedule import ramp, shifted_sigmas, size_shift


def test_the_size_shift_is_a_line_through_two_points():
    config = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    assert size_shift(config, 256) == pytest.approx(0.5)
    assert size_shift(config, 4096) == pytest.approx(1.15)
    assert size_shift(config, 2176) == pytest.approx(0.825)


def test_sigmas_are_shifted_by_the_size_of_the_image():
    """sigma -> s sigma / (1 + (s - 1) sigma) with s = exp(mu)."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    shift = math.exp(1.15)
    expected = [shift * s / (1 + (shift - 1) * s) for s in (1, 0.75, 0.5, 0.25, 0)]
    torch.testing.assert_close(shifted_sigmas(scheduler, 4, 4096, ramp(4)), torch.tensor(expected))


def test_a_fixed_shift_ignores_the_size():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected = torch.tensor([1, 0.9, 0.75, 0.5, 0])
    for tokens in (256, 4096):
        torch.testing.assert_close(shifted_sigmas(scheduler, 4, tokens, ramp(4)), expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # the scheduler's own, of 0 / 0
def test_a_schedule_with_an_end_needs_two_steps():
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    torch.testing.assert_close(shifted_sigmas(scheduler, 2, 256, ramp(2)), torch.tensor([1, 0.02, 0]))
    with pytest.raises(ValueError, match=r"1 sampling steps: .* to 2 or more"):
        shifted_sigmas(scheduler, 1, 256, ramp(1))


def test_a_token_is_a_square_of_four_latents_channel_by_channel():
    latents = torch.arange(2 * 3 * 4 * 6).float().view(2, 3, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(tokens[1, 4], latents[1, :, 2:4, 2:4].reshape(12))  # row 1, column 1 of 2 x 3 tokens
    assert torch.equal(unpack(tokens, 4, 6), latents)
