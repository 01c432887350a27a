"""An update on a GPU: AWM with both anchors, its gradient twice to the bit, with exact algorithms and with the fastest ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from actors.device import pick_device, pick_dtype
from actors.diffusion import lora
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner
from actors.policy.options import LearnerSettings
from actors.process import compute_exactly
from bench.full_size import image_model
from bench.gpu_case import Case, Expected
from bench.gpu_watch import bits, peak_of, see
from bench.learner import made_up_samples, move_off_zero


class Kept(TorchEngine):
    """Takes no step, and moves no average: keeps a hash of the gradient, and forgets it, so that an update can be done again."""

    gradient = ""

    def step(self, learning_rate: float) -> float:
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        self.gradient = bits(*gradients)
        norm = torch.nn.utils.get_total_norm(gradients).item()
        self.discard()
        return norm

    def average(self, keep: float) -> None:
        pass


def measure(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Twice with exact algorithms, then twice without."""
    device = pick_device(case.device)
    dtype, size = pick_dtype("auto", device), case.size
    expected = Expected(case, size.pixels, size.samples, size.tokens, peak_of(device, dtype, case.tiny))
    with TemporaryDirectory() as temporary:
        family = image_model(case.family, device, dtype, case.tiny, size.tokens, Path(temporary))
    family.pipeline.vae = None  # as in a policy rank
    learner = learner_of(case, expected, family)
    groups, chunks = made_up_samples(family, size.samples, size.pixels)
    for name, exact in (("exact", True), ("fastest", False)):
        compute_exactly(exact)
        gradients = []
        for _ in range(3):  # what is made once is not the update's
            seen = see(lambda: learner.update(1, groups, chunks), device)
            gradients.append(learner.engine.gradient)  # type: ignore[attr-defined]
        yield f"update, {name} algorithms", {
            **expected.speed("update", seen.seconds), **expected.memory("policy", "update", seen.reserved),
            "grad_norm": seen.value["grad_norm"], "same_gradient_twice": len(set(gradients)) == 1,
        }  # fmt: skip


def learner_of(case: Case, expected: Expected, family: Any) -> Learner:
    """On the recipe's policy and objective."""
    size = case.size
    changed = {"micro_batch": size.micro_batch, "activation_checkpointing": size.checkpointing}
    policy = expected.recipe.policy.model_copy(update=changed)
    objective = expected.recipe.objective.model_copy(update={expected.recipe.objective.points_key: size.points})
    targets = family.lora_targets[policy.lora_targets]
    lora.attach(family.transformer, policy.lora_rank, policy.lora_alpha, targets, seed=0)
    move_off_zero(family)
    if size.checkpointing:
        family.transformer.enable_gradient_checkpointing()
    settings = LearnerSettings(
        policy,
        objective,
        num_steps=size.steps,
        guidance_scale=1.0,
        height=size.pixels,
        width=size.pixels,
        seed=0,
        total_steps=1000,
    )
    return Learner(settings, family, Kept(family.transformer, policy))
