"""The learner: same seed, same bytes; micro-batches do not matter; only the LoRA moves; and it learns."""

import numpy as np
import pytest
import torch

from actors.diffusion import lora
from actors.messages import Latents, UpdateGroup
from actors.policy.checkpoint import load_adapter, load_state, save_state
from actors.policy.learner import Learner, LearnerSettings, learning_rate_share
from pipelines.config import Awm, Policy

CAPTIONS = ("a red circle", "two blue square")


def make_learner(model, micro_batch=4, seed=0, **objective):
    table = {"timesteps": "uniform", "timesteps_per_sample": 2, "kl_reference": 0.02, "kl_ema": 0.1, **objective}
    policy = Policy(
        model=model,
        max_sequence_length=2,
        lora_rank=4,
        lora_alpha=8.0,
        lora_targets="all",
        micro_batch=micro_batch,
        learning_rate=1e-2,
    )
    return Learner(LearnerSettings(policy.model_dump(), Awm(**table).model_dump(), 4, 32, 32, seed, 20))


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
    first, second, other = make_learner(tiny_sd3), make_learner(tiny_sd3), make_learner(tiny_sd3, seed=1)
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
    before = {name: p.clone() for name, p in learner.transformer.named_parameters()}
    learner.update(1, *samples())
    moved = {name for name, p in learner.transformer.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(".lora_" in name for name in moved)
    trains = {name for name, p in learner.transformer.named_parameters() if p.requires_grad}
    assert trains == {name for name in before if f".{lora.TRAINED}." in name}


def test_the_moving_average_follows_its_schedule(tiny_sd3):
    learner = make_learner(tiny_sd3, ema_decay_rate=0.1, ema_decay_max=0.3)
    expected = {name: tensor.detach().clone() for name, tensor in learner.ema.items()}
    for step in (1, 2, 3, 4):
        learner.update(step, *samples(step))
        keep = min(0.3, 0.1 * step)
        expected = {
            name: keep * tensor + (1 - keep) * learner.trained[name].detach() for name, tensor in expected.items()
        }
    for name, tensor in learner.ema.items():
        torch.testing.assert_close(tensor, expected[name])


def test_zero_advantages_without_anchors_leave_the_weights(tiny_sd3):
    learner = make_learner(tiny_sd3, kl_reference=0.0, kl_ema=0.0)
    before = lora.sha256_of({k: v for k, v in lora.as_numpy(learner.trained).items() if k.endswith(lora.B)})
    figures = learner.update(1, *samples(advantages=(0.0,) * 4))
    assert figures["grad_norm"] == 0
    assert lora.sha256_of({k: v for k, v in lora.as_numpy(learner.trained).items() if k.endswith(lora.B)}) == before


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


def test_saved_and_loaded_it_continues_to_the_bit(tiny_sd3, tmp_path):
    learner = make_learner(tiny_sd3)
    learner.update(1, *samples(1))
    learner.update(2, *samples(2))
    files = save_state(learner, tmp_path, (learner.export(2),))
    assert set(files) == {"policy.pt", "adapter/pytorch_lora_weights.safetensors", "versions/000002.safetensors"}
    resumed = make_learner(tiny_sd3)
    assert load_state(resumed, tmp_path) == 2
    assert load_adapter(resumed, tmp_path, 2).sha256 == learner.export(2).sha256
    figures = [each.update(3, *samples(3)) for each in (learner, resumed)]
    assert figures[0]["loss"] == figures[1]["loss"]
    assert learner.export(3).sha256 == resumed.export(3).sha256


def test_it_learns_which_of_two_images_was_better(tiny_sd3):
    """Advantage +1 on one latent and -1 on another: the better one's matching error falls below the other's."""
    learner = make_learner(tiny_sd3, kl_reference=0.0, kl_ema=0.0, weighting="uniform")
    groups, chunks = samples(advantages=(1.0, 1.0, -1.0, -1.0))

    def errors():
        with torch.no_grad():
            batch = learner._samples(groups, chunks)
            log_prob = learner.objective.measure(
                learner.family, batch.latents_BCHW, batch.conditions, batch.sample_seeds, batch.sigmas
            )
        error = -log_prob["log_prob"].mean(1)
        return (error[batch.advantages_B < 0].mean() - error[batch.advantages_B > 0].mean()).item()

    before = errors()
    for step in range(1, 31):
        learner.update(step, groups, chunks)
    assert errors() > before + 0.1


def test_learning_rate_warms_up_and_falls_to_its_share():
    share = [learning_rate_share(step, 5, 25, 0.1) for step in (1, 5, 15, 25)]
    assert share == pytest.approx([0.2, 1.0, 0.55, 0.1])
