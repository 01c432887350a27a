"""The estimate of a recipe's workers: weights and LoRA exactly, sums and the fullest GPU by hand, a real update against its estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage
from torch import nn

from actors.diffusion import lora
from actors.messages import Adapter, DrawPart, DrawReport, DrawRequest, Prompt, sha256_of
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner, load_model
from actors.policy.options import LearnerOptions, LearnerSettings
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from pipelines.engine.messages import GroupKey
from pipelines.preflight.memory import architectures
from pipelines.preflight.memory.cards import GIB, NOT_OF_TORCH, Actor, card_needed, fullest_gpu
from pipelines.preflight.memory.counts import image_bytes, rows_of_update, samples_of_rank
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Models, Part, models_to_estimate
from pipelines.preflight.memory.workers import (
    CONTEXT,
    decoder_numel,
    policy_rank,
    reward_worker,
    rollout_worker,
    trained_bytes,
)
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from pipelines.training.groups import Chunk, Group, update_shares
from tests.support.gang import ON_CPU, samples, settings
from tests.support.live_bytes import LiveBytes, fake

RECIPES = Path(__file__).resolve().parents[4] / "recipes"
ONE_GPU = RECIPES / "sd35m_qwen25vl7b_1gpu.toml"


def of(recipe: Recipe) -> Models:
    return models_to_estimate(recipe.policy, recipe.rewards)


def one_gpu(**changes: Any) -> Recipe:
    """The recipe for one GPU with some keys changed: `policy__dtype="float32"` sets policy.dtype."""
    return load_recipe(ONE_GPU, [f"{key.replace('__', '.')}={str(value).lower()}" for key, value in changes.items()])


def test_weights_are_the_published_numbers_in_the_type_of_the_device() -> None:
    recipe = one_gpu(policy__text_encoders="keep", rollout__text_encoders="keep")
    found = estimate(recipe, of(recipe))
    transformer, encoders = 2_243_171_520 + 384**2 * 1536, 123_650_304 + 694_659_840 + 4_762_310_656
    for pool in ("policy", "rollout"):
        assert found[pool].held["transformer"] == 2 * transformer
        assert found[pool].held["text encoders"] == 2 * encoders
    assert found["rollout"].held["VAE"] == 4 * 83_819_683, "always float32"
    assert found["reward"].held["VLM"] == 2 * 8_292_166_656
    assert all(actor.held[NOT_OF_TORCH] == CONTEXT for actor in found.actors)
    full = one_gpu(policy__dtype="float32", policy__text_encoders="keep", rollout__text_encoders="keep")
    assert estimate(full, of(full))["policy"].held["transformer"] == 4 * transformer


def test_parked_encoders_stay_on_the_host_and_come_to_encode() -> None:
    kept, parked = (
        estimate(recipe, of(recipe))
        for recipe in (one_gpu(policy__text_encoders="keep", rollout__text_encoders="keep"), one_gpu())
    )
    encoders = kept["policy"].held["text encoders"]
    assert parked["policy"].held["text encoders"] == 0
    assert parked["policy"].phases["encoding"] - kept["policy"].phases["encoding"] == encoders
    assert parked["policy"].loading == kept["policy"].loading


def learner_of(learner: LearnerSettings) -> Learner:
    """One rank of plain torch."""
    family = load_model(learner)
    return Learner(learner, family, TorchEngine(family.transformer, learner.policy))


def test_the_lora_and_adamw_of_a_real_learner(tiny_sd3: str) -> None:
    """Stage 0, by the bytes of a learner's own tensors after a step."""
    learner = learner_of(settings(tiny_sd3))
    [share] = samples(1, (4,))
    learner.update(1, share[0], share[1:])
    engine = learner.engine
    numel = sum(parameter.numel() for parameter in engine.trained.values())
    state = [engine.optimizer.state[parameter] for parameter in engine.trained.values()]
    moments = sum(of_one[kind].nbytes for of_one in state for kind in ("exp_avg", "exp_avg_sq"))
    adapters = sum(parameter.nbytes for parameter in (*engine.trained.values(), *engine.ema.values()))
    assert trained_bytes(0, 1, numel) == {
        "LoRA and its average": adapters,
        "gradient": 4 * numel,
        "optimiser": moments,
    }


@pytest.mark.parametrize(
    ("stage", "ranks", "expected"), [(1, 1, 7), (1, 2, 5.5), (2, 1, 7), (2, 2, 5), (2, 4, 4), (3, 1, 7), (3, 2, 5)]
)
def test_zero_shares_out_moments_and_gradients(stage: int, ranks: int, expected: float) -> None:
    """In sizes of the LoRA: two adapters, a flat share, the gradient and its bucket, two moments of the share."""
    assert sum(trained_bytes(stage, ranks, 1000).values()) == expected * 4000


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_update_takes_no_more_than_was_said(tiny_world: Path, checkpointing: bool) -> None:
    """On the CPU in bfloat16, by counted bytes: all of a rank but its weights, from a step's samples to the optimiser."""
    dtype = "policy.dtype=bfloat16"
    recipe = load_recipe(tiny_world, [dtype, f"policy.activation_checkpointing={str(checkpointing).lower()}"])
    models = of(recipe)
    said = policy_rank(
        recipe.rollout,
        recipe.policy,
        recipe.objective,
        models.image,
        models.image.shape(recipe.policy.max_sequence_length),
    )
    rollout, policy = recipe.rollout, recipe.policy.part(LearnerOptions)
    size = {"height": rollout.height, "width": rollout.width, "guidance_scale": 1.0}
    run = {"num_steps": rollout.steps, "seed": 0, "total_steps": 3}
    learner = learner_of(LearnerSettings(policy, recipe.objective, **size, **run))
    [share] = samples(1, (samples_of_rank(recipe.rollout, recipe.policy.ranks),))
    components = [part for part in learner.family.pipeline.components.values() if isinstance(part, nn.Module)]
    with LiveBytes([tensor for part in components for tensor in (*part.parameters(), *part.buffers())]) as live:
        learner.update(1, share[0], share[1:])
    there = (
        "transformer",
        "text encoders",
        "LoRA and its average",
        "captions",
    )  # before, or never: it meets three captions
    comes = said.peak - sum(said.held[name] for name in there)
    assert 0.3 * comes < live.peak < 1.1 * comes


def test_rows_of_a_backward() -> None:
    recipe = one_gpu()
    shape = of(recipe).image.shape(256)
    assert samples_of_rank(recipe.rollout, recipe.policy.ranks) == 96
    assert rows_of_update(recipe.rollout, recipe.policy, recipe.objective, shape) == 2 * 6
    flow = one_gpu(objective="{type='flow_grpo', window=4}", rollout__guidance_scale=4.5)
    assert rows_of_update(flow.rollout, flow.policy, flow.objective, shape) == 2 * 4 * 2
    large = one_gpu(policy__micro_batch=500)
    assert rows_of_update(large.rollout, large.policy, large.objective, shape) == 96 * 6


def test_samples_of_a_rank_are_what_the_driver_gives_it() -> None:
    """50 chunks of 8 images among three ranks: one of them gets 17."""
    recipe = load_recipe(RECIPES / "flux_dev_8gpu.toml", ["rollout.prompts_per_step=25"])
    report = DrawReport("a red circle", False, 0, "", 0, 0.0)
    chunks = {number: Chunk(report, None, None) for number in range(2)}
    groups = [Group(GroupKey("train", 1, i), Prompt(str(i), "a red circle"), 0, 0, chunks) for i in range(25)]
    shares = update_shares(0, recipe.rollout.images_per_score, recipe.policy.ranks, groups, np.zeros((25, 16)))
    assert samples_of_rank(recipe.rollout, recipe.policy.ranks) == max(
        sum(len(piece.advantages_K) for piece in share[0]) for share in shares
    )


@pytest.mark.parametrize(
    "objective",
    [
        "{type='awm', timesteps='uniform'}",
        "{type='flow_grpo', window=3}",
        "{type='nft', behaviour='measured', timesteps='uniform', timesteps_per_sample=2}",
    ],
)
def test_an_image_in_the_object_store_is_what_a_draw_returns(tiny_world: Path, objective: str) -> None:
    recipe = load_recipe(tiny_world, [f"objective={objective}"])
    shape = of(recipe).image.shape(recipe.policy.max_sequence_length)
    generator = Generator(GeneratorSettings(recipe.policy.model, recipe.objective, ON_CPU, 2))
    adapter = zero_adapter(generator)
    request = DrawRequest(
        "train", 1, (DrawPart(0, 0, "a red circle", (1, 2), (3, 4)),), 0, adapter.sha256, 4, 1.0, 32, 32
    )
    (report,), _, _ = generator.draw(request, adapter)
    said = image_bytes(recipe.rollout, recipe.objective, shape)
    assert report.num_bytes == pytest.approx(2 * said, abs=2 * 64)  # and some numbers a sample


def zero_adapter(generator: Generator) -> Adapter:
    """Of one module."""
    name = next(name for name in generator.merger.weights if name.endswith("attn.to_q"))
    out, width = generator.merger.weights[name].shape
    tensors = {name + lora.A: np.zeros((1, width), np.float32), name + lora.B: np.zeros((out, 1), np.float32)}
    return Adapter(0, 1, 1.0, ("to_q",), sha256_of(tensors), tensors)


@pytest.mark.parametrize(
    ("name", "vae"),
    [("vae-sd3", AutoencoderKL), ("vae-flux", AutoencoderKL), ("vae-qwen-image", AutoencoderKLQwenImage)],
)
def test_the_widest_place_of_a_decoder(name: str, vae: Any) -> None:
    """Full-size decoders at 64 px, in bfloat16: 768 and 1,728 numbers a pixel."""
    description = architectures.load(name)
    model = vae(**description["config"]).to(torch.bfloat16).eval()
    side = 8
    with fake(model), torch.no_grad():
        latents = torch.randn(1, 16, side, side, dtype=torch.bfloat16)
        latents = latents.unsqueeze(2) if vae is AutoencoderKLQwenImage else latents
        with LiveBytes([*model.parameters(), *model.buffers(), latents]) as live:
            model.decode(latents, return_dict=False)
    part = Part(description["class"], description["config"], 0)
    assert live.peak == pytest.approx(2 * decoder_numel(part) * (8 * side) ** 2, rel=0.06)


def test_bytes_in_flight_follow_staleness_and_the_limit() -> None:
    recipe = one_gpu(loop__staleness=2)
    found = estimate(recipe, of(recipe))
    assert found.image_bytes == 3 * 512 * 512 + 4 * 16 * 64 * 64
    assert found.bytes_in_flight == 3 * 8 * 12 * found.image_bytes
    limited = one_gpu(loop__staleness=2, loop__max_groups_in_flight=5)
    assert estimate(limited, of(limited)).bytes_in_flight == 5 * 12 * found.image_bytes


def drawing(**changes: Any) -> int:
    recipe = one_gpu(**changes)
    models = of(recipe)
    return rollout_worker(
        recipe.rollout, "attention", recipe.objective, recipe.heldout, models.image, models.image.shape(256)
    ).phases["drawing"]


def test_drawing_grows_with_the_chunk_and_with_guidance() -> None:
    assert drawing(rollout__chunk=12) == pytest.approx(2 * drawing(rollout__chunk=6, heldout__chunk=1), rel=0.01)
    guided = drawing(rollout__chunk=12, rollout__guidance_scale=4.0)
    assert guided == pytest.approx(2 * drawing(rollout__chunk=12), rel=0.01)


def test_held_out_images_are_drawn_as_well() -> None:
    """Two of them with guidance are four rows, and more than a chunk of one image."""
    assert drawing(rollout__chunk=1, heldout__chunk=2) == pytest.approx(
        drawing(rollout__chunk=4, heldout__chunk=1), rel=0.01
    )


def test_awm_that_measures_draws_at_all_points_at_once() -> None:
    measured = drawing(rollout__chunk=6, objective__behaviour='"measured"')
    assert measured == pytest.approx(6 * drawing(rollout__chunk=6, heldout__chunk=1), rel=0.02)


def test_the_budget_of_pixels_lowers_the_judges_need() -> None:
    def peak(*changes: str) -> int:
        recipe = load_recipe(ONE_GPU, ["rollout.height=1024", "rollout.width=1024", *changes])
        models = of(recipe)
        judge, shape = models.judges["reward"], models.image.shape(256)
        worker = reward_worker("reward", recipe.reward, judge, recipe.rollout, recipe.heldout, shape)
        return worker.phases["forward passes"]

    assert peak("reward.image_pixels=65536") < 0.5 * peak()


def actor(pool: str, count: int, share: float, size: int) -> Actor:
    return Actor(pool, count, share, share > 0, {"weights": size})


def three(*parts: tuple[int, float, int]) -> list[Actor]:
    """Policy, rollout and reward by (count, num_gpus, bytes)."""
    return [actor(pool, *part) for pool, part in zip(("policy", "rollout", "reward"), parts, strict=True)]


@pytest.mark.parametrize(
    ("actors", "need", "together"),
    [
        (three((1, 0.4, 5), (1, 0.3, 3), (1, 0.3, 4)), 12, {"policy": 1, "rollout": 1, "reward": 1}),
        (three((2, 1.0, 5), (4, 0.5, 3), (4, 0.5, 4)), 8, {"reward": 2}),
        (three((2, 1.0, 9), (4, 0.5, 3), (4, 0.5, 4)), 9, {"policy": 1}),
        (three((1, 0.6, 5), (1, 0.5, 3), (1, 0.4, 4)), 9, {"policy": 1, "reward": 1}),
        ([actor("reward", 3, 1 / 3, 4)], 12, {"reward": 3}),
        ([actor("policy", 1, 2.0, 5)], 5, {"policy": 1}),
        ([actor("policy", 1, 0.0, 5)], 0, {}),
    ],
)
def test_the_fullest_gpu_that_fractions_allow(actors: list[Actor], need: int, together: dict[str, int]) -> None:
    assert fullest_gpu(actors) == (need, together)


def test_a_worker_that_shares_a_gpu_needs_a_card_whose_share_holds_what_torch_takes_for_it() -> None:
    policy = Actor("policy", 1, 0.4, True, {"weights": 5, NOT_OF_TORCH: 1}, {"update": 3})
    reward = actor("reward", 1, 0.5, 4)
    assert (policy.peak, policy.of_torch) == (9, 8)
    assert card_needed([policy, reward]) == 20, "8 of torch's in a share of 0.4; together they would fit into 13"
    assert card_needed([replace(policy, num_gpus=1.0), reward]) == 9
    assert card_needed([actor("policy", 1, 0.0, 5)]) == 0


def test_an_actor_needs_what_it_holds_and_its_widest_phase() -> None:
    found = Actor("rollout", 1, 1.0, True, {"a": 3, "b": 2}, {"drawing": 7, "decoding": 4})
    assert (found.peak, found.widest) == (12, "drawing")
    assert replace(found, phases={}).peak == 5


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*gpu.toml")), ids=lambda path: path.stem)
def test_every_recipe_for_real_hardware_fits_its_gpus(path: Path) -> None:
    """An 80 GB card has 79.2 GiB at least; a twentieth stays free."""
    recipe = load_recipe(path)
    need = card_needed(estimate(recipe, of(recipe)).actors)
    assert 0 < need < 0.95 * 79.2 * GIB
    asked = sum(actor.count * actor.num_gpus for actor in estimate(recipe, of(recipe)).actors)
    assert asked == pytest.approx(int(path.stem.rsplit("_", 1)[1].removesuffix("gpu")))
