"""What a rollout worker finds when it starts, and what it tells of a chunk whose numbers are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.messages import Adapter, DrawPart, DrawRequest, DrawTrial
from actors.mistake import Mistake
from actors.policy.objectives.awm_options import AwmOptions
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from actors.rollout.trial import try_out
from tests.support.gang import ON_CPU

TRIAL = DrawTrial("its/model", 32, 32, (4, 16), 2.0)
REQUEST = DrawRequest("train", 1, (DrawPart(0, 0, "a red circle", (11, 12), (21, 22)),), 1, "", 4, 2.0, 32, 32)


@pytest.fixture
def generator(tiny_sd3: str) -> Generator:
    return Generator(GeneratorSettings(tiny_sd3, AwmOptions(), ON_CPU, 2))


def poison(module: torch.nn.Module) -> None:
    """Makes one weight of the module's last parameter no number."""
    with torch.no_grad():
        list(module.parameters())[-1].view(-1)[0] = float("nan")


def draw(generator: Generator) -> tuple[str, np.ndarray]:
    """What is not finite of a chunk, and its images."""
    (report,), images, _ = generator.draw(REQUEST, Adapter(0, 4, 8.0, (), "", {}))
    return report.not_finite, images


def test_a_healthy_model_is_tried_and_draws_as_if_it_had_not_been(generator: Generator, tiny_sd3: str) -> None:
    try_out(generator.family, TRIAL)
    untried = Generator(GeneratorSettings(tiny_sd3, AwmOptions(), ON_CPU, 2))
    (not_finite, images), (_, others) = draw(generator), draw(untried)
    assert not_finite == ""
    assert np.array_equal(images, others)


@pytest.mark.parametrize(
    ("part", "told"),
    [("text_encoder", "text encoders give"), ("transformer", "transformer gives"), ("vae", "VAE gives")],
)
def test_a_part_that_gives_no_numbers_is_named(generator: Generator, part: str, told: str) -> None:
    poison(getattr(generator.family.pipeline, part))
    generator.family._captions.clear()  # encoded while it was healthy
    with pytest.raises(Mistake, match=f"policy.model = 'its/model': its {told} values that are not finite"):
        try_out(generator.family, TRIAL)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"height": 36}, "rollout.height = 36, rollout.width = 32: this model draws multiples of 8"),
        ({"width": 4096}, "rollout.width = 4096: this model draws at most"),
    ],
)
def test_a_size_that_the_model_does_not_draw_is_a_mistake(generator: Generator, changed: dict, told: str) -> None:
    with pytest.raises(Mistake, match=told):
        try_out(generator.family, replace(TRIAL, **changed))


def test_latents_and_pictures_that_are_no_numbers_are_told_with_their_chunk(generator: Generator) -> None:
    poison(generator.family.pipeline.vae)
    assert draw(generator)[0] == "pictures"
    poison(generator.family.transformer)
    assert draw(generator)[0] == "latents"


@pytest.mark.parametrize("error", [TypeError, IndexError, ValueError])
def test_a_network_that_cannot_use_its_own_config_is_told_at_the_start(generator: Generator, error: type) -> None:
    def refuse(*_: object) -> None:
        raise error("no such axis")

    generator.family.transformer.register_forward_pre_hook(refuse)
    with pytest.raises(Mistake, match=r"policy.model = 'its/model' does not draw 32 x 32 pixels: no such axis"):
        try_out(generator.family, TRIAL)
