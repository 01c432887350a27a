"""What every registered objective keeps: drawn and trained on a real tiny model, whatever the micro-batches, and it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.diffusion import lora
from actors.diffusion.sample import noise_of
from actors.messages import Latents, UpdateGroup
from actors.policy.advantages import group_advantages
from actors.policy.engine import TorchEngine
from actors.policy.learner import LATENTS, Learner, shapes_of
from actors.policy.objectives.registry import OBJECTIVES
from tests.support.gang import model_of, settings

CAPTION, IMAGES, STEPS = "a red circle", 8, 4
KEYS = {
    "awm": {"timesteps": "uniform", "timesteps_per_sample": 2},
    "flow_grpo": {"window": 2, "clip_range": 0.2},
    "nft": {"timesteps": "uniform", "timesteps_per_sample": 2},
    "flow_grpo, even": {
        "type": "flow_grpo", "window": 1, "timestep_start": 0.5, "clip_range": 0.2, "ratio": "normalised", "step_weights": "even",
    },
}  # fmt: skip
BEHAVIOURS = [(name, behaviour) for name in KEYS for behaviour in ("current", "measured")]


def make_learner(model, name, micro_batch=8, guidance_scale=1.0, learning_rate=5e-3, **changes):
    keys = KEYS[name]
    objective = OBJECTIVES[keys.get("type", name)](**{**keys, **changes})
    given = settings(model, micro_batch=micro_batch, warmup_steps=0, learning_rate=learning_rate, weight_decay=0.0)
    learner = replace(given, objective=objective, guidance_scale=guidance_scale, total_steps=10**6)
    family = model_of(learner)
    return Learner(learner, family, TorchEngine(family.transformer, learner.policy))


def draw(learner, step, adapter=None, count=IMAGES):
    """What a rollout worker gives: the chunk of one group, drawn by the adapter that the objective names."""
    family = learner.family
    noise_BCHW = torch.stack([noise_of(100 * step + i, (4, 8, 8)) for i in range(count)])
    prompted = family.prompted(CAPTION, learner.settings.guidance_scale).repeat(count)
    with learner.switch.to(adapter or learner.objective.drawn_by):
        latents, behaviour = learner.objective.draw(family, noise_BCHW, learner.sigmas, prompted, seeds(step, count))
    return Latents(latents.numpy(), {name: value.numpy() for name, value in behaviour.items()})


def seeds(step, count):
    return tuple(range(1000 * step, 1000 * step + count))


def group(step, advantages):
    return (UpdateGroup(step, 0, "p", CAPTION, step - 1, tuple(advantages), seeds(step, len(advantages))),)


def train(learner, steps):
    """Steps towards latents of a high mean; returns that mean of every drawing."""
    means = []
    for step in range(1, steps + 1):
        chunk = draw(learner, step)
        rewards = chunk.latents_KCHW.mean((1, 2, 3))
        means.append(float(rewards.mean()))
        learner.update(step, group(step, group_advantages(rewards[None], "group")[0]), (chunk,))
    return means


def test_every_objective_is_tried():
    assert KEYS.keys() >= OBJECTIVES.keys()


@pytest.mark.parametrize(("name", "behaviour"), [case for case in BEHAVIOURS if case[0] in OBJECTIVES])
def test_it_learns_and_the_same_seed_gives_the_same_bytes(tiny_sd3, name, behaviour):
    learner, second, third = (make_learner(tiny_sd3, name, behaviour=behaviour, learning_rate=2e-2) for _ in range(3))
    means = train(learner, 10)
    assert np.mean(means[-5:]) > np.mean(means[:5]) + 0.05
    for other in (second, third):
        train(other, 3)
    assert second.export(3).sha256 == third.export(3).sha256 != learner.export(3).sha256


def rows_of(learner, call):
    """What `call` returns, and how many rows the transformer saw in it, with a gradient and without."""
    rows = {True: 0, False: 0}

    def see(module, args, given):
        rows[torch.is_grad_enabled()] += len(given["hidden_states"])

    hook = learner.family.transformer.register_forward_pre_hook(see, with_kwargs=True)
    try:
        return call(), rows[True], rows[False]
    finally:
        hook.remove()


@pytest.mark.parametrize(("name", "behaviour"), BEHAVIOURS)
def test_what_an_objective_says_of_itself_is_what_it_does(tiny_sd3, name, behaviour):
    """The facts on the options, by which memory and time are estimated."""
    changes = {"kl_ema": 0.5} if name == "awm" else {}
    learner = make_learner(tiny_sd3, name, behaviour=behaviour, kl_reference=0.01, **changes)
    options = learner.settings.objective
    with torch.no_grad():
        chunk, _, drawn = rows_of(learner, lambda: draw(learner, 1))
    assert drawn == IMAGES * (STEPS + options.measured_points)
    kept = [figure for figure in chunk.behaviour.values() if figure.shape[-3:] == chunk.latents_KCHW.shape[1:]]
    assert sum(figure.size for figure in kept) == options.kept_latents * chunk.latents_KCHW.size
    update = group(1, np.linspace(-2, 2, IMAGES)), (chunk,)
    figures, trained, anchors = rows_of(learner, lambda: learner.update(1, *update))
    assert trained == IMAGES * options.points
    assert anchors == IMAGES * options.points * options.anchors
    assert {*options.terms, "loss_policy", "kl_reference"} <= figures.keys()
    every = {term for one in OBJECTIVES.values() for term in one.terms}
    assert every & figures.keys() == set(options.terms)


@pytest.mark.parametrize(("name", "behaviour"), BEHAVIOURS)
def test_micro_batches_do_not_change_the_gradient(tiny_sd3, name, behaviour):
    whole, parts = (make_learner(tiny_sd3, name, micro_batch=size, behaviour=behaviour) for size in (8, 3))
    chunk, advantages = draw(whole, 1), np.linspace(-2, 2, IMAGES)
    figures = [learner.update(1, group(1, advantages), (chunk,)) for learner in (whole, parts)]
    for figure in ("loss", "grad_norm"):
        assert figures[0][figure] == pytest.approx(figures[1][figure], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", KEYS)
def test_what_the_worker_measured_is_what_the_learner_finds_on_policy(tiny_sd3, name):
    """The same update from measured figures of the old policy and from the learner's own, while both are the same."""
    figures = []
    for behaviour in ("current", "measured"):
        learner = make_learner(tiny_sd3, name, behaviour=behaviour)
        figures.append(learner.update(1, group(1, np.linspace(-2, 2, IMAGES)), (draw(learner, 1),)))
    assert figures[0]["grad_norm"] == pytest.approx(figures[1]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(("name", "behaviour"), BEHAVIOURS)
def test_a_blank_sample_has_a_finite_loss(tiny_sd3, name, behaviour):
    """Ranks with fewer samples than others add blanks of weight 0: a loss that is no number would spoil the sum."""
    learner = make_learner(tiny_sd3, name, behaviour=behaviour)
    chunk = draw(learner, 1, count=2)
    shapes = shapes_of(learner.batch_of(group(1, (1.0, -1.0)), (chunk,)))
    blank = learner.blank(shapes)
    assert {LATENTS, *blank.behaviour} == shapes.keys()
    loss = learner.objective.loss(learner, blank).total
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in learner.engine.trained.values())


def test_flow_grpo_trains_the_guided_velocity_that_drew(tiny_sd3):
    """With guidance the replayed steps have the log-probabilities with which they were drawn: the ratio is 1."""
    learner = make_learner(tiny_sd3, "flow_grpo", guidance_scale=3.0)
    figures = learner.update(1, group(1, np.linspace(-2, 2, IMAGES)), (draw(learner, 1),))
    assert figures["ratio_p05"] == pytest.approx(1, abs=1e-5)
    assert figures["ratio_p95"] == pytest.approx(1, abs=1e-5)


def test_nft_draws_with_the_old_adapter_which_follows_the_trained_one(tiny_sd3):
    learner = make_learner(tiny_sd3, "nft", old_decay_rate=0.5, old_decay_max=0.5)
    learner.update(1, group(1, np.linspace(-2, 2, IMAGES)), (draw(learner, 1),))
    old, trained = learner.engine.whole("ema"), learner.engine.whole("trained")
    exported = learner.export(1)
    for name, tensor in old.items():
        np.testing.assert_array_equal(exported.tensors[name], tensor.detach().numpy())
        if name.endswith(lora.B):  # B began at 0: the average is half way
            torch.testing.assert_close(tensor, trained[name] / 2)
