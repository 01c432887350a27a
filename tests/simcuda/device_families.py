"""Every family with every objective on the device, in bfloat16: drawn, trained, drawn again with what was learned, kept and restored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.messages import Adapter, DrawPart, DrawRequest, Latents, UpdateGroup
from actors.policy.actor import PolicyActor
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner
from actors.policy.objectives.objective import load_objective
from actors.policy.objectives.registry import OBJECTIVES
from actors.process import Process
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from tests.support.gang import settings
from tests.support.simcuda.events import Event, Kind, Log, watch
from toy.random_models.families import MAKERS

CAPTION, IMAGES, SIZE, STEPS, TOKENS, GUIDANCE = "a red circle", 3, 32, 3, 64, 3.0
MATCHING = {"timesteps": "uniform", "timesteps_per_sample": 2}
KEYS = {
    "awm": {**MATCHING, "kl_reference": 0.02, "kl_ema": 0.1},
    "flow_grpo": {"window": 2, "clip_range": 0.2},
    "nft": {"timesteps": "discrete", "timesteps_per_sample": 2},
}
BEHAVIOURS = ("current", "measured")
FAMILIES = ("flux-dev", "qwen-image", "sd3-t5", "z-image")


class Pair:
    """A rollout worker and a policy rank of one model, with parked encoders and checkpointed activations."""

    def __init__(self, model: str, number: int) -> None:
        self.number = number
        given = settings(
            model,
            device="cuda",
            dtype="auto",
            text_encoders="park",
            activation_checkpointing=True,
            max_sequence_length=TOKENS,
            warmup_steps=0,
        )
        self.policy = PolicyActor(0, 1, Process(1, 1.0), replace(given, guidance_scale=GUIDANCE))
        self.policy.join("")
        objective = OBJECTIVES["awm"]()
        self.generator = Generator(GeneratorSettings(model, objective, given.policy, TOKENS))

    def behaviour(self, objective: str) -> str:
        """One of the two in turns, so that each objective meets both."""
        return BEHAVIOURS[(self.number + list(OBJECTIVES).index(objective)) % 2]

    def train_with(self, name: str, behaviour: str) -> None:
        """Begins anew with an objective; the LoRA goes on."""
        objective = OBJECTIVES[name](**KEYS[name], behaviour=behaviour)
        policy = self.policy
        policy.settings = replace(policy.settings, objective=objective)
        transformer = policy.learner.engine.transformer
        policy.learner = Learner(policy.settings, policy.family, TorchEngine(transformer, policy.settings.policy))
        self.generator.objective = load_objective(objective)

    def draw(self, adapter: Adapter, step: int, keep_latents: bool = True) -> tuple:
        """(report, images, latents) of a group."""
        part = DrawPart(0, 0, CAPTION, tuple(range(IMAGES)), seeds(step))
        request = DrawRequest(
            "train", step, (part,), adapter.policy_version, adapter.sha256, STEPS, GUIDANCE, SIZE, SIZE, keep_latents
        )
        [report], images, latents = self.generator.draw(request, adapter)
        return report, images, latents

    def update(self, step: int, latents: Latents) -> dict[str, float]:
        return self.policy.update(step, group(step), latents)


def seeds(step: int) -> tuple[int, ...]:
    return tuple(range(100 * step, 100 * step + IMAGES))


def group(step: int) -> tuple[UpdateGroup, ...]:
    advantages = tuple(np.linspace(-1, 1, IMAGES))
    return (UpdateGroup(step, 0, "p", CAPTION, step - 1, advantages, seeds(step)),)


def ours(log: Log, kind: Kind | None = None) -> list[Event]:
    """What blocks but for diffusers' own: where captions are padded, its Qwen-Image sends their length in each forward."""
    return [event for event in log.blocking(kind) if not event.line.startswith("diffusers/")]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    makers: dict = MAKERS
    folder = makers[request.param](tmp_path_factory.mktemp(request.param))
    return Pair(str(folder), FAMILIES.index(request.param))


def test_both_hold_their_models_in_bfloat16_on_the_device_and_their_encoders_beside_it(pair: Pair):
    for family in (pair.generator.family, pair.policy.family):
        assert family.dtype == torch.bfloat16
        assert {p.device.type for p in family.transformer.parameters()} == {"cuda"}
        encoders = [getattr(family.pipeline, name) for name in family.encoder_parts]
        assert {p.device.type for part in encoders if part is not None for p in part.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_draws_trains_and_draws_with_what_it_learned(pair: Pair, name: str):
    behaviour = pair.behaviour(name)
    pair.train_with(name, behaviour)
    _, first = pair.policy.export(0)
    for step in (1, 2):
        with watch() as drawing:
            report, images, latents = pair.draw(first, step)
        assert report.not_finite == ""
        assert images.shape == (IMAGES, SIZE, SIZE, 3)
        assert (latents.behaviour != {}) == (behaviour == "measured" or name == "flow_grpo")
        with watch() as training:
            figures = pair.update(step, latents)
        assert np.isfinite(figures["grad_norm"])
        assert figures["grad_norm"] > 0
    assert not drawing.blocking("to host"), drawing
    assert not ours(drawing, "to device"), drawing
    assert len(ours(drawing, "wait")) == 1 + len(latents.behaviour) + 2, (
        drawing
    )  # pictures, and whether they are finite
    assert [event.kind for event in ours(training)] == ["wait"] * 2, training  # figures and the gradient's norm
    _, learned = pair.policy.export(2)
    assert learned.sha256 != first.sha256
    report, _, latents = pair.draw(learned, 3, keep_latents=False)
    assert report.adapter_effect > 0
    assert latents is None


def test_a_learner_goes_on_from_what_was_kept_and_a_draw_is_repeated_to_the_bit(pair: Pair):
    pair.train_with("awm", "current")
    _, adapter = pair.policy.export(0)
    _, images, latents = pair.draw(adapter, 1)
    assert np.array_equal(pair.draw(adapter, 1)[1], images)
    pair.update(1, latents)
    _, files = pair.policy.snapshot(adapter)
    shas = []
    for _ in range(2):
        assert pair.policy.load(files) == 1
        pair.update(2, latents)
        shas.append(pair.policy.export(2)[0]["sha256"])
    assert shas[0] == shas[1]
    assert pair.policy.load_adapter(files, adapter.policy_version)[0]["sha256"] == adapter.sha256
