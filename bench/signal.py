"""How much of an objective's gradient is signal: the agreement of the gradients of independent batches, on the miniature world.

    python -m bench.signal [--batches N] [--only NAME ...] [--quick] [--out DIR]

Each batch has other prompts, noise and images, drawn by one policy near the base model. With g = signal + noise the mean cosine of two
batches is |signal|^2 / (|signal|^2 + E |noise|^2): 1 is a gradient that every batch agrees on, 0 is pure noise. AdamW takes steps of
the same length whatever the gradient's norm, so this, not the norm, says how many steps an objective needs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from actors.diffusion.family import LoadOptions, load_family
from actors.diffusion.sample import noise_of
from actors.messages import Latents, Prompt, UpdateGroup
from actors.policy.advantages import group_advantages
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner, load_model
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.flow_grpo_options import FlowGrpoOptions
from actors.policy.objectives.nft_options import NftOptions
from actors.policy.objectives.objective import load_objective
from actors.policy.objectives.options import ObjectiveOptions
from actors.policy.options import LearnerSettings
from actors.process import Process, prepare
from actors.reward.kinds.promptecho import PromptEchoOptions
from actors.seeds import seed_of
from bench.hardware import machine
from pipelines.data.prompts import load_prompts
from pipelines.recipe.load import load_recipe

RECIPE = Path("recipes/toy.toml")
SAMPLER = ("rollout.steps=8",)  # of which the variants train some
AWAY = 0.005  # deviation of the adapter's B, so that its A has a gradient as well
POINTS: dict[str, Any] = {"timesteps": "uniform", "timesteps_per_sample": 2, "timestep_min": 0.0}


def variants() -> dict[str, tuple[ObjectiveOptions, bool]]:
    """By name, the objective without its anchors, and whether a group shares its starting noise."""

    def grpo(**changes: Any) -> FlowGrpoOptions:
        return FlowGrpoOptions(**{"behaviour": "current", "kl_reference": 0.0, "window": 7, **changes})

    middle = {"window": 2, "timestep_start": 0.25, "timestep_fraction": 0.5}  # the third and fourth of eight steps
    guard = {"ratio": "normalised", "step_weights": "even"}
    return {
        "AWM": (AwmOptions(kl_reference=0.0, kl_ema=0.0, **POINTS), False),
        "DiffusionNFT": (NftOptions(kl_reference=0.0, **POINTS), False),
        "Flow-GRPO, SDE 0.7": (grpo(), False),
        "SDE 0.4": (grpo(noise_level=0.4), False),
        "SDE 1.0": (grpo(noise_level=1.0), False),
        "SDE 0.7, a group's noise": (grpo(), True),
        "SDE 0.7, first 3 steps": (grpo(window=3, timestep_fraction=0.4), False),
        "SDE 0.7, noise weights": (grpo(step_weights="noise"), False),
        "SDE 0.7, even weights": (grpo(**guard), False),
        "SDE 0.7, steps 3 and 4": (grpo(**middle), False),
        "SDE 0.7, steps 3 and 4, a group's noise": (grpo(**middle), True),
        "CPS 0.3": (grpo(step="cps", noise_level=0.3), False),
        "CPS 0.5": (grpo(step="cps", noise_level=0.5), False),
        "CPS 0.5, noise weights": (grpo(step="cps", noise_level=0.5, step_weights="noise"), False),
        "CPS 0.5, even weights": (grpo(step="cps", noise_level=0.5, **guard), False),
        "CPS 0.5, steps 3 and 4": (grpo(step="cps", noise_level=0.5, **middle), False),
        "CPS 0.7": (grpo(step="cps"), False),
        "CPS 0.7, steps 3 and 4": (grpo(step="cps", **middle), False),
        "CPS 0.7, steps 3 and 4, a group's noise": (grpo(step="cps", **middle), True),
        "CPS 0.9, steps 3 and 4, a group's noise": (grpo(step="cps", noise_level=0.9, **middle), True),
        "CPS 0.7, a group's noise": (grpo(step="cps"), True),
    }


class World:
    """The miniature world's policy, decoder, judge and prompts."""

    def __init__(self) -> None:
        recipe = load_recipe(RECIPE, SAMPLER)
        rollout, policy = recipe.rollout, recipe.policy
        self.rollout = rollout
        settings = LearnerSettings(
            policy, recipe.objective, rollout.steps, rollout.guidance_scale, rollout.height,
            rollout.width, seed=0, total_steps=1,
        )  # fmt: skip
        self.family = load_model(settings)
        self.learner = Learner(settings, self.family, TorchEngine(self.family.transformer, settings.policy))
        self._move_away()
        cpu = torch.device("cpu")
        self.decoder = load_family(
            policy.model, LoadOptions(cpu, torch.float32, decoder=True, max_sequence_length=policy.max_sequence_length)
        )
        self.judge = PromptEchoOptions(model=str(recipe.rewards["reward"].judge), transform="exp", device="cpu").load()
        self.prompts = load_prompts(recipe.data.train, "data.train")

    @torch.no_grad()
    def _move_away(self) -> None:
        generator = torch.Generator().manual_seed(0)
        engine = self.learner.engine
        for name, parameter in engine.trained.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * AWAY)
            engine.ema[name].copy_(parameter)

    def gradient(self, options: ObjectiveOptions, batch: int, shared_noise: bool, groups: int) -> tuple[Tensor, float]:
        """The gradient (flat, float64) of one batch of groups, and their mean reward."""
        self.learner.objective = load_objective(options)
        chosen = np.random.default_rng(batch).choice(len(self.prompts), groups, replace=False)
        drawn = [self._draw(self.prompts[i], seed_of("signal", batch, int(i)), shared_noise) for i in chosen]
        advantages_PK = group_advantages(np.array([rewards for _, rewards, _ in drawn]), "group")
        updates = tuple(
            UpdateGroup(1, n, self.prompts[i].id, self.prompts[i].caption, 0, tuple(advantages_PK[n]), drawn[n][2])
            for n, i in enumerate(chosen)
        )
        samples = self.learner.batch_of(updates, tuple(latents for latents, _, _ in drawn))
        self.learner.engine.discard()
        self.learner.objective.loss(self.learner, samples).total.backward()
        parts = [p.grad.flatten() for p in self.learner.engine.trained.values() if p.grad is not None]
        return torch.cat(parts).double(), float(np.mean([rewards for _, rewards, _ in drawn]))

    @torch.no_grad()
    def _draw(
        self, prompt: Prompt, seed: int, shared_noise: bool
    ) -> tuple[Latents, tuple[float, ...], tuple[int, ...]]:
        seeds = tuple(seed_of(seed, "sample", k) for k in range(self.rollout.group_size))
        shape = self.family.latent_shape(self.rollout.height, self.rollout.width)
        noise = torch.stack([noise_of(seeds[0] if shared_noise else own, shape) for own in seeds])
        prompted = self.family.prompted(prompt.caption, self.rollout.guidance_scale).repeat(len(seeds))
        learner = self.learner
        latents, behaviour = learner.objective.draw(self.family, noise, learner.sigmas, prompted, seeds)
        rewards = self.judge.score(self.decoder.decode(latents).contiguous().numpy(), prompt).rewards_K
        return Latents(latents.numpy(), {name: value.numpy() for name, value in behaviour.items()}), rewards, seeds


def agreement(gradients: list[Tensor]) -> tuple[float, float]:
    """The mean cosine over all pairs of batches, and its standard error by leaving out each batch in turn (jackknife)."""
    unit = torch.stack([gradient / gradient.norm() for gradient in gradients])
    cosines, count = unit @ unit.T, len(unit)
    of_batch = cosines.sum(1) - cosines.diagonal()
    mean = of_batch.sum() / (count * (count - 1))
    if count < 3:
        return mean.item(), 0.0
    without = (of_batch.sum() - 2 * of_batch) / ((count - 1) * (count - 2))
    return mean.item(), ((count - 1) / count * (without - without.mean()).square().sum()).sqrt().item()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.signal", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=40, help="independent batches of each variant (40)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants, after AWM; as the table names them")
    parser.add_argument("--quick", action="store_true", help="2 small batches of the first two, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for signal.json (runs/bench)")
    options = parser.parse_args(arguments)
    found = dict(itertools.islice(variants().items(), 2 if options.quick else None))
    if unknown := [name for name in options.only or () if name not in found]:
        parser.error(f"--only {unknown[0]!r}: allowed are {', '.join(map(repr, found))}")
    if options.only:
        found = {name: variant for name, variant in found.items() if name in (*options.only, next(iter(found)))}
    prepare(Process(1))
    world = World()
    batches, groups = (2, 2) if options.quick else (options.batches, world.rollout.prompts_per_step)
    table = Table("", "cosine", "±", "of AWM's", "mean reward", title="Agreement of independent batches")
    rows: list[dict[str, Any]] = []
    for name, (objective, shared) in track(found.items()):
        results = [world.gradient(objective, batch, shared, groups) for batch in range(batches)]
        cosine, error = agreement([gradient for gradient, _ in results])
        reward = statistics.mean(reward for _, reward in results)
        rows.append({"name": name, "cosine": cosine, "error": error, "reward": reward})
        ratio = cosine / rows[0]["cosine"]
        table.add_row(name, f"{cosine:.3f}", f"{error:.3f}", f"{ratio:.2f}", f"{reward:.3f}")
    Console(width=100).print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    results_of = {"machine": machine("cpu"), "batches": batches, "images": groups * world.rollout.group_size}
    (options.out / "signal.json").write_text(json.dumps({**results_of, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
