"""The learner on one rank of plain torch: same seed, same bytes; micro-batches do not matter; only the LoRA moves; and it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from actors.device import pick_dtype
from actors.diffusion import lora
from actors.messages import Latents, UpdateGroup, sha256_of
from actors.policy.actor import PolicyActor
from actors.policy.checkpoint import load, load_adapter, snapshot
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner, learning_rate_share, load_model
from actors.policy.loss_scale import LossScale
from actors.policy.objectives.awm import matching_error
from actors.policy.objectives.timesteps import training_points
from actors.process import Process
from tests.support.gang import model_of, settings

CAPTIONS = ("a red circle", "two blue square")


def make_learner(model, seed=0, *, micro_batch=4, dtype="float32", load=model_of, **objective):
    policy = {"micro_batch": micro_batch, "dtype": dtype, "warmup_steps": 0, "final_learning_rate": 1.0}
    learner = replace(settings(model, {"ema_decay_rate": 1e-3, **objective}, **policy), seed=seed)
    family = load(learner)
    return Learner(learner, family, TorchEngine(family.transformer, learner.policy))


def samples(step=1, advantages=(1.0, -1.0, 0.5, -0.5)):
    generator = np.random.default_rng(step)
    groups = tuple(
        UpdateGroup(
            step, g, f"p{g}", caption, step - 1, advantages, tuple(range(10 * g + 100 * step, 10 * g + 100 * step + 4))
        )
        for g, caption in enumerate(CAPTIONS)
    )
    chunks = []
    for _ in range(4):  # two chunks of two images for each group
        latents = generator.normal(size=(2, 4, 8, 8)).astype(np.float32)
        latents.setflags(write=False)
        chunks.append(Latents(latents))
    return groups, tuple(chunks)


def test_same_seed_same_bytes(tiny_sd3):
    first, second, other = (make_learner(tiny_sd3, seed, load=load_model) for seed in (0, 0, 1))
    for learner in (first, second, other):
        for step in (1, 2, 3):
            learner.update(step, *samples(step))
    assert first.export(3).sha256 == second.export(3).sha256
    assert first.export(3).sha256 != other.export(3).sha256


def test_micro_batches_do_not_change_the_gradient(tiny_sd3):
    whole, parts = make_learner(tiny_sd3, micro_batch=8), make_learner(tiny_sd3, micro_batch=3)
    for learner in (whole, parts):
        learner.update(1, *samples(1))
    figures = [learner.update(2, *samples(2)) for learner in (whole, parts)]
    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"], rel=1e-4)
    assert figures[0]["grad_norm"] == pytest.approx(figures[1]["grad_norm"], rel=1e-4)


def test_only_the_trained_adapter_moves(tiny_sd3):
    learner = make_learner(tiny_sd3)
    before = {name: p.clone() for name, p in learner.engine.transformer.named_parameters()}
    learner.update(1, *samples())
    moved = {name for name, p in learner.engine.transformer.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(".lora_" in name for name in moved)
    trains = {name for name, p in learner.engine.transformer.named_parameters() if p.requires_grad}
    assert trains == {name for name in before if f".{lora.TRAINED}." in name}


def test_the_moving_average_follows_its_schedule(tiny_sd3):
    learner = make_learner(tiny_sd3, ema_decay_rate=0.1, ema_decay_max=0.3)
    expected = {name: tensor.detach().clone() for name, tensor in learner.engine.ema.items()}
    for step in (1, 2, 3, 4):
        learner.update(step, *samples(step))
        keep = min(0.3, 0.1 * step)
        expected = {
            name: keep * tensor + (1 - keep) * learner.engine.trained[name].detach()
            for name, tensor in expected.items()
        }
    for name, tensor in learner.engine.ema.items():
        torch.testing.assert_close(tensor, expected[name])


def test_zero_advantages_without_anchors_leave_the_weights(tiny_sd3):
    learner = make_learner(tiny_sd3, kl_reference=0.0, kl_ema=0.0)
    before = sha256_of({k: v for k, v in lora.as_numpy(learner.engine.trained).items() if k.endswith(lora.B)})
    figures = learner.update(1, *samples(advantages=(0.0,) * 4))
    assert figures["grad_norm"] == 0
    assert sha256_of({k: v for k, v in lora.as_numpy(learner.engine.trained).items() if k.endswith(lora.B)}) == before


def test_a_step_without_groups_changes_nothing_but_the_step(tiny_sd3):
    learner = make_learner(tiny_sd3)
    before = learner.export(0).sha256
    figures = learner.update(1, (), ())
    assert figures["samples"] == 0
    assert learner.step == 1
    assert learner.export(1).sha256 == before


def test_a_gradient_that_is_no_number_stops_and_leaves_the_weights(tiny_sd3):
    learner = make_learner(tiny_sd3)
    before = learner.export(0).sha256
    with pytest.raises(FloatingPointError, match="step 1"):
        learner.update(1, *samples(advantages=(float("nan"), 0.0, 0.0, 0.0)))
    assert learner.export(0).sha256 == before


def test_saved_and_loaded_it_continues_to_the_bit(tiny_sd3):
    learner = make_learner(tiny_sd3)
    learner.update(1, *samples(1))
    learner.update(2, *samples(2))
    files = snapshot(learner, (learner.export(2),))
    adapter = "adapter/pytorch_lora_weights.safetensors"
    assert set(files) == {"policy.safetensors", adapter, "versions/000002.safetensors"}
    assert all(content.dtype == np.uint8 and content.ndim == 1 for content in files.values())
    for content in files.values():
        content.setflags(write=False)
    resumed = make_learner(tiny_sd3)
    assert load(resumed, files) == 2
    assert load_adapter(resumed, files, 2).sha256 == learner.export(2).sha256
    figures = [each.update(3, *samples(3)) for each in (learner, resumed)]
    assert figures[0]["loss"] == figures[1]["loss"]
    assert learner.export(3).sha256 == resumed.export(3).sha256


def test_a_state_of_other_modules_is_refused(tiny_sd3):
    learner = make_learner(tiny_sd3)
    files = snapshot(learner, ())
    other = settings(tiny_sd3, lora_targets="attention")
    family = load_model(other)
    load(Learner(other, family, TorchEngine(family.transformer, other.policy)), files)
    files = snapshot(Learner(other, family, TorchEngine(family.transformer, other.policy)), ())
    with pytest.raises(ValueError, match="lora_targets"):
        load(learner, files)


def test_diffusers_alone_loads_the_adapter_of_a_snapshot(tiny_sd3, tmp_path):
    learner = make_learner(tiny_sd3)
    learner.update(1, *samples(1))
    for name, content in snapshot(learner, ()).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.tobytes())
    pipe = StableDiffusion3Pipeline.from_pretrained(tiny_sd3, text_encoder_3=None, tokenizer_3=None)
    latents, sigma = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    conditions = learner.family.prompted("a red circle", 1.0).conditions

    def velocity():
        return pipe.transformer(
            latents, conditions.tensors["prompt_embeds"], conditions.tensors["pooled_prompt_embeds"], 1000 * sigma
        ).sample

    with torch.no_grad():
        base = velocity()
        pipe.load_lora_weights(tmp_path / "adapter")
        ours = learner.velocity(latents, sigma, conditions, "trained")
        torch.testing.assert_close(velocity(), ours)
    assert (base - ours).abs().max() > 1e-3


def test_latents_that_do_not_belong_to_the_samples_are_refused(tiny_sd3):
    groups, chunks = samples()
    with pytest.raises(ValueError, match="2 latents came for 8 samples"):
        make_learner(tiny_sd3).update(1, groups, chunks[:1])


def test_an_update_that_broke_off_is_not_continued(tiny_sd3):
    learner = make_learner(tiny_sd3)
    groups, chunks = samples()
    wrong = {"log_prob": np.zeros((2, 3), np.float32)}  # of three timesteps, not two
    with pytest.raises(RuntimeError, match="size of tensor"):
        learner.update(1, groups, tuple(Latents(chunk.latents_KCHW, wrong) for chunk in chunks))
    with pytest.raises(RuntimeError, match="broke off"):
        learner.update(1, groups, chunks)


def test_in_bfloat16_the_lora_is_float32_and_computes_in_bfloat16(tiny_sd3):
    learner = make_learner(tiny_sd3, dtype="bfloat16")
    engine = learner.engine
    assert {p.dtype for p in (*engine.trained.values(), *engine.ema.values())} == {torch.float32}
    outputs = []
    layers = [m for m in engine.transformer.modules() if isinstance(m, lora.MasterLinear)]
    hooks = [layer.register_forward_hook(lambda *io: outputs.append(io[-1].dtype)) for layer in layers]
    latents = torch.zeros((1, 4, 8, 8))
    learner.velocity(
        latents, torch.tensor([0.5]), learner.family.prompted("", 1.0).conditions, "trained"
    ).sum().backward()
    assert set(outputs) == {torch.bfloat16}
    assert {p.grad.dtype for p in engine.trained.values() if p.grad is not None} == {torch.float32}
    assert hooks


def test_in_float16_a_gradient_too_small_for_it_is_not_lost(tiny_sd3):
    """The mean over the latents of a real step divides by up to 1e8: so much smaller is each number's part of the gradient."""

    def gradients(dtype: str, numbers: int) -> torch.Tensor:
        learner = make_learner(tiny_sd3, dtype=dtype)
        trained = learner.engine.trained
        batch = learner.batch_of(*samples())
        loss = learner.objective.loss(learner, batch).total / numbers
        (loss * learner.loss_scale.of(numbers * batch.latents_BCHW.numel())).backward()
        return torch.cat([weight.grad.flatten() for weight in trained.values() if weight.grad is not None]) * numbers

    exact, half = gradients("float32", 1), gradients("float16", 2**17)
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, half, dim=0) > 0.999
    assert half.norm() == pytest.approx(exact.norm().item(), rel=0.02)


def test_without_float16_nothing_is_scaled():
    weight = torch.nn.Parameter(torch.ones(1))
    scale = LossScale([weight], torch.bfloat16)
    assert scale.of(2**30) == 1.0
    assert not weight._backward_hooks
    assert LossScale([weight], torch.float16).of(3 * 2**30) == 2.0**26


def test_auto_is_float32_on_a_cpu():
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_stage_0_is_one_rank_only(tiny_sd3):
    actor = PolicyActor(0, 2, Process(1), settings(tiny_sd3))
    with pytest.raises(ValueError, match="zero_stage"):
        actor.join(actor.address())


def test_it_learns_which_of_two_images_was_better(tiny_sd3):
    """Advantage +1 on one latent and -1 on another: the better one's matching error falls below the other's."""
    learner = make_learner(tiny_sd3, kl_reference=0.0, kl_ema=0.0, weighting="uniform")
    groups, chunks = samples(advantages=(1.0, 1.0, -1.0, -1.0))

    def errors():
        with torch.no_grad():
            batch = learner.batch_of(groups, chunks)
            points = training_points(
                learner.settings.objective,
                batch.latents_BCHW,
                batch.prompted.conditions,
                batch.sample_seeds,
                batch.sigmas,
            )
            velocity = learner.family.velocity(points.noised, points.sigma, points.conditions)
        error = matching_error(velocity, points.clean, points.noise).view(len(batch.latents_BCHW), -1).mean(1)
        return (error[batch.advantages_B < 0].mean() - error[batch.advantages_B > 0].mean()).item()

    before = errors()
    for step in range(1, 31):
        learner.update(step, groups, chunks)
    assert errors() > before + 0.1


def test_learning_rate_warms_up_and_falls_to_its_share():
    assert learning_rate_share(3, 5, 3, 0.1) == 0.6  # a run shorter than its warm-up
    share = [learning_rate_share(step, 5, 25, 0.1) for step in (1, 5, 15, 25)]
    assert share == pytest.approx([0.2, 1.0, 0.55, 0.1])
