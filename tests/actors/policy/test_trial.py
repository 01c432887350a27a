"""A rank tries the model before it trains: what cannot be drawn is told at its start, and a rank that tried is as one that did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from actors.diffusion.compiling import uncompiled
from actors.diffusion.trial import try_network
from actors.messages import DrawTrial
from actors.mistake import Mistake
from actors.policy.actor import PolicyActor
from actors.policy.learner import load_model
from actors.process import Process
from tests.support.gang import settings

TRIAL = DrawTrial("its/model", 32, 32, (4,), 2.0)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"width": 36}, "rollout.height = 32, rollout.width = 36: this model draws multiples of 8"),
        ({"height": 4096}, "rollout.height = 4096, rollout.width = 32: this model draws at most"),
    ],
)
def test_a_rank_tells_what_the_model_does_not_draw_when_it_starts(tiny_sd3: str, changed: dict, told: str) -> None:
    with pytest.raises(Mistake, match=told):
        PolicyActor(0, 1, Process(), replace(settings(tiny_sd3), **changed))


def test_the_trial_changes_neither_the_model_nor_any_random_stream(tiny_sd3: str) -> None:
    family = load_model(settings(tiny_sd3))
    before = {name: tensor.clone() for name, tensor in family.transformer.state_dict().items()}
    asks = {name: parameter.requires_grad for name, parameter in family.transformer.named_parameters()}
    state = torch.get_rng_state()
    first, second = try_network(family, TRIAL), try_network(family, TRIAL)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: p.requires_grad for name, p in family.transformer.named_parameters()} == asks
    assert all(torch.equal(tensor, before[name]) for name, tensor in family.transformer.state_dict().items())


class Doubling(nn.Module):
    """A network that torch compiles; its own layers it leaves alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_a_network_that_is_to_be_compiled_is_tried_as_it_is_written() -> None:
    network, compiled = Doubling(), []

    def backend(module: nn.Module, inputs: list) -> Callable:
        compiled.append(module)
        return module.forward

    network.compile(backend=backend)
    with uncompiled(network):
        network(torch.ones(1, 2))
    assert not compiled
    network(torch.ones(1, 2))
    assert compiled, "it is compiled afterwards as ever"


def test_an_adapter_that_is_not_finite_is_never_exported(tiny_sd3: str) -> None:
    actor = PolicyActor(0, 1, Process(), settings(tiny_sd3))
    actor.join("")
    actor.export(0)
    name, weight = next(iter(actor.learner.engine.trained.items()))
    weight.data[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match=rf"version 1: {name} of the adapter is not finite.*learning_rate"):
        actor.export(1)


def test_a_trial_is_of_the_recipes_size_and_steps(tiny_sd3: str) -> None:
    made = settings(tiny_sd3).trial
    assert made == replace(TRIAL, model=tiny_sd3, guidance_scale=1.0)
