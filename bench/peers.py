"""A step of ours beside the loop that anybody would write with diffusers, peft and transformers, piece by piece, on the miniature world.

    python -m bench.peers [--quick] [--groups-per-task 1 4 12] [--repeats N] [--out DIR]

The plain loop draws with the pipeline and an unmerged adapter, scores with the model's own logits, by one forward a group or one
a token of the caption, and trains by autograd on all images at once. Ours draws, scores and trains as the workers do; every turn has
another adapter. The work is the same: images, sampling steps, points of the loss, the reference's forward. Checked before anything
is timed: images of both are equal but for rounding, and so are rewards. Not checked: that both updates have the same gradient, since
their points are drawn otherwise. Seconds are the process's own, on one thread; ratios are medians over neighbouring turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from actors.diffusion import lora
from actors.diffusion.options import ImageModelOptions
from actors.diffusion.sample import starting_noise
from actors.messages import Adapter, DrawPart, DrawRequest, Latents, Prompt, UpdateGroup
from actors.policy.advantages import group_advantages
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner, load_model
from actors.policy.options import LearnerSettings
from actors.process import Process, prepare
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from bench.hardware import machine, median_of_pairs, take_turns
from bench.plain_loop import AWAY, Plain
from pipelines.data.prompts import load_prompts
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe

RECIPE = Path("recipes/toy.toml")
ROUNDING = 1  # of 255, between our pixels and the pipeline's
NATS = 1e-4  # between our rewards and the plain ones


class Ours:
    """What our three workers do in a step."""

    def __init__(self, recipe: Recipe, prompts: Sequence[Prompt]) -> None:
        rollout, policy, objective = recipe.rollout, recipe.policy, recipe.objective
        self.rollout, self.prompts = rollout, prompts
        on_cpu = ImageModelOptions(device="cpu", dtype="float32")
        self.generator = Generator(GeneratorSettings(policy.model, objective, on_cpu, policy.max_sequence_length))
        self.judge = recipe.rewards["reward"].options.on("cpu").load()
        settings = LearnerSettings(
            policy, objective, rollout.steps, rollout.guidance_scale, rollout.height, rollout.width, seed=0,
            total_steps=1000,
        )  # fmt: skip
        family = load_model(settings)
        self.learner = Learner(settings, family, TorchEngine(family.transformer, settings.policy))
        names = [name.removesuffix(lora.B) for name in self.learner.engine.trained if name.endswith(lora.B)]
        self.drawn_with = self.generator.merger.with_gradient(names)
        self.version = 0

    def adapter(self) -> Adapter:
        """Another one at each call, on the modules and of the rank that the recipe trains; zero where training would leave it zero."""
        self.version += 1
        random = np.random.default_rng(self.version)
        policy, tensors = self.learner.settings.policy, {}
        for name, weight in self.learner.engine.trained.items():
            module, is_b = name.rpartition(".lora_")[0], name.endswith(lora.B)
            size = AWAY * (module in self.drawn_with) if is_b else 1 / policy.lora_rank
            tensors[name] = random.normal(0, 1, weight.shape).astype(np.float32) * np.float32(size)
        return Adapter(self.version, policy.lora_rank, policy.lora_alpha, (), lora.sha256_of(tensors), tensors)

    def sample(self, adapter: Adapter, groups_per_task: int) -> tuple[list[np.ndarray], list[Latents]]:
        """All groups' images uint8 [K, H, W, 3] and latents."""
        images: list[np.ndarray] = []
        latents: list[Latents] = []
        for first in range(0, len(self.prompts), groups_per_task):
            parts = [
                DrawPart(first + n, 0, prompt.caption, seeds := self.seeds(first + n), seeds)
                for n, prompt in enumerate(self.prompts[first : first + groups_per_task])
            ]
            r = self.rollout
            request = DrawRequest(
                "train",
                1,
                tuple(parts),
                adapter.policy_version,
                adapter.sha256,
                r.steps,
                r.guidance_scale,
                r.height,
                r.width,
            )
            _, *payloads = self.generator.draw(request, adapter)
            images += payloads[::2]
            latents += payloads[1::2]
        return images, latents

    def seeds(self, group: int) -> tuple[int, ...]:
        """Of the images of a group."""
        return tuple(range(1000 * group, 1000 * group + self.rollout.group_size))

    def score(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Rewards [P, K]."""
        pairs = zip(images, self.prompts, strict=True)
        return np.array([self.judge.score(images_KHWC, prompt).rewards_K for images_KHWC, prompt in pairs])

    def update(self, latents: Sequence[Latents], rewards_PK: np.ndarray) -> None:
        """One step of the learner."""
        advantages_PK = group_advantages(rewards_PK, "group")
        groups = tuple(
            UpdateGroup(1, n, prompt.id, prompt.caption, 0, tuple(advantages_PK[n]), self.seeds(n))
            for n, prompt in enumerate(self.prompts)
        )
        self.learner.update(1, groups, tuple(latents))


def measure(quick: bool, groups_per_task: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds of each way, interleaved, and ratios plain / ours. Raises RuntimeError where images or rewards disagree."""
    recipe = load_recipe(
        RECIPE,
        ["rollout.prompts_per_step=2", "rollout.groups_per_task=1", "rollout.group_size=2", "data.mix={}"]
        if quick
        else [],
    )
    count = recipe.rollout.prompts_per_step
    prompts = load_prompts(recipe.data.train, "data.train")
    chosen = [prompts[i] for i in np.random.default_rng(0).choice(len(prompts), count, replace=False)]
    ours, plain = Ours(recipe, chosen), Plain(recipe, chosen)
    size = recipe.rollout.height, recipe.rollout.width
    noise = torch.stack([starting_noise(ours.generator.family, ours.seeds(n), *size) for n in range(count)])

    adapter = ours.adapter()
    plain.wear(adapter)
    images, latents = ours.sample(adapter, 1)
    difference = max(np.abs(a.astype(int) - b).max() for a, b in zip(images, plain.sample(noise, 1), strict=True))
    rewards_PK = ours.score(images)
    apart = max(np.abs(way(images) - rewards_PK).max() for way in (plain.score, plain.score_by_token))
    if difference > ROUNDING or apart > NATS:
        raise RuntimeError(f"images differ by {difference} of 255 and rewards by {apart:.1e}: the work is not the same")

    latents_PKCHW = torch.stack([torch.from_numpy(of_group.latents_KCHW) for of_group in latents])

    def drawing(groups: int) -> Callable[[], Any]:
        return lambda: ours.sample(ours.adapter(), groups)

    ways = {f"ours, sample, {groups} a task": drawing(groups) for groups in groups_per_task}
    ways |= {
        "plain, sample, all at once": lambda: plain.sample(noise, count),
        "plain, sample, group by group": lambda: plain.sample(noise, 1),
        "ours, score": lambda: ours.score(images),
        "plain, score": lambda: plain.score(images),
        "plain, score, a forward a token": lambda: plain.score_by_token(images),
        "ours, update": lambda: ours.update(latents, rewards_PK),
        "plain, update": lambda: plain.update(latents_PKCHW, rewards_PK),
    }
    seconds = take_turns(ways, repeats, "cpu")
    return {
        "machine": machine("cpu"),
        "images": count * recipe.rollout.group_size,
        "differences": {"pixels": int(difference), "rewards": float(apart)},
        "seconds": seconds,
        "ratios": ratios(seconds, [f"ours, sample, {groups} a task" for groups in groups_per_task]),
    }


def ratios(seconds: dict[str, list[float]], samplings: Sequence[str]) -> dict[str, dict[str, float]]:
    """Plain over ours, by our way of sampling: of each piece, and of the whole step with the plain loop at its best."""

    def total(*ways: str) -> list[float]:
        return [sum(turn) for turn in zip(*(seconds[way] for way in ways), strict=True)]

    found = {}
    for sampling in samplings:
        whole = total(sampling, "ours, score", "ours, update")
        best = total("plain, sample, all at once", "plain, score", "plain, update")
        found[sampling] = {
            "sampling, all at once": median_of_pairs(seconds["plain, sample, all at once"], seconds[sampling]),
            "sampling, group by group": median_of_pairs(seconds["plain, sample, group by group"], seconds[sampling]),
            "scoring": median_of_pairs(seconds["plain, score"], seconds["ours, score"]),
            "scoring, a forward a token": median_of_pairs(
                seconds["plain, score, a forward a token"], seconds["ours, score"]
            ),
            "update": median_of_pairs(seconds["plain, update"], seconds["ours, update"]),
            "whole step": median_of_pairs(best, whole),
        }
    return found


def tables(results: dict[str, Any]) -> list[Table]:
    """Seconds of every way, and the ratios."""
    pieces = Table("piece", "CPU s", "least", "most", title=f"{results['images']} images of the miniature world")
    for way, values in results["seconds"].items():
        pieces.add_row(way, *(f"{value:.3f}" for value in (statistics.median(values), min(values), max(values))))
    names = list(next(iter(results["ratios"].values())))
    compared = Table("plain / ours", *results["ratios"], title="Above 1, ours costs less")
    for name in names:
        compared.add_row(name, *(f"{of_way[name]:.2f}" for of_way in results["ratios"].values()))
    return [pieces, compared]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four images, two turns, to see that it works")
    parser.add_argument("--groups-per-task", type=int, nargs="+", help="of our sampling (1 4 12; 1 2 with --quick)")
    parser.add_argument("--repeats", type=int, help="turns (7; 2 with --quick)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for peers.json (runs/bench)")
    options = parser.parse_args(arguments)
    prepare(Process(1))
    groups = options.groups_per_task or ([1, 2] if options.quick else [1, 4, 12])
    results = measure(options.quick, groups, options.repeats or (2 if options.quick else 7))
    console = Console(width=max(110, Console().width))
    console.print(*tables(results), results["machine"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "peers.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out / 'peers.json'}")


if __name__ == "__main__":
    main()
