"""A step of the learner against the same gradient by hand, with and without activation checkpointing, over sizes of micro-batches.

    python -m bench.learner --family sd3.5-medium|flux.1-dev|qwen-image|z-image [--tiny] [--size 512] [--samples 8]
                            [--micro-batch 1 2 4 8] [--kl 0] [--device cpu|cuda] [--repeats N] [--out DIR]

Ours is `Learner.update` with AWM on a LoRA: points, forward, backward, optimizer, log. By hand is what no learner can leave out: on the
same points, which are made beforehand, forward, squared error times advantage, backward, clipping and AdamW. Both gradients must agree.
With --kl ours also runs the reference model. Random weights, no Ray, one rank of plain torch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.table import Table

from actors.diffusion import lora
from actors.diffusion.family import Family
from actors.messages import Latents, UpdateGroup
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.timesteps import training_points
from actors.policy.options import LearnerOptions, LearnerSettings
from bench.command import command_line, fill_in, finish, start, surroundings
from bench.flops import TRANSFORMERS, Flops
from bench.full_size import CAPTION, IMAGE_MODELS, image_model, transformer_config
from bench.hardware import median_of_pairs, peak_memory, take_turns
from pipelines.preflight.memory.architectures import load

AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # relative, of the norms of the two gradients
LEARNING_RATE = 1e-12  # so that every turn has the same weights
TINY = {"size": 64, "samples": 2, "tokens": 20, "micro_batch": [1, 2]}
ASKED = ("family", "tiny", "size", "samples", "timesteps", "tokens", "rank", "kl")
USUAL = {"size": 512, "samples": 8, "micro_batch": [1, 2, 4, 8]}


class Bench:
    """A family with a LoRA, a step's samples, and the two ways to train on them."""

    def __init__(self, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device = options, device.type
        with TemporaryDirectory() as temporary:
            self.family = image_model(options.family, device, dtype, options.tiny, options.tokens, Path(temporary))
        rank = {"lora_rank": options.rank, "lora_alpha": 2.0 * options.rank}
        policy = LearnerOptions(model=options.family, zero_stage=0, learning_rate=LEARNING_RATE, **rank)
        points = {"timesteps": "uniform", "timesteps_per_sample": options.timesteps}
        self.objective = AwmOptions(weighting="uniform", kl_reference=options.kl, kl_ema=0.0, **points)
        sampler = {"num_steps": 10, "guidance_scale": 0.0, "height": options.size, "width": options.size}
        self.settings = LearnerSettings(policy, self.objective, seed=0, total_steps=1000, **sampler)
        targets = self.family.lora_targets[policy.lora_targets]
        lora.attach(self.family.transformer, policy.lora_rank, policy.lora_alpha, targets, seed=0)
        move_off_zero(self.family)
        self.groups, self.chunks = made_up_samples(self.family, options.samples, options.size)

    def learner(self, micro_batch: int) -> Learner:
        """A fresh one on the shared family."""
        settings = replace(self.settings, policy=self.settings.policy.model_copy(update={"micro_batch": micro_batch}))
        return Learner(settings, self.family, TorchEngine(self.family.transformer, settings.policy))

    def ours(self, micro_batch: int) -> Callable[[], float]:
        """An update; returns the norm of its gradient."""
        learner = self.learner(micro_batch)
        return lambda: learner.update(1, self.groups, self.chunks)["grad_norm"]

    def by_hand(self, micro_batch: int) -> Callable[[], float]:
        """The same update, from points that are already there."""
        family, objective, parts = self.family, self.objective, []
        advantages = torch.tensor(self.groups[0].advantages_K, device=family.device) / objective.advantage_clip
        latents_KCHW = torch.from_numpy(self.chunks[0].latents_KCHW).to(family.device)
        sigmas = family.sigmas(self.settings.num_steps, self.options.size, self.options.size)
        for first in range(0, self.options.samples, micro_batch):
            rows = slice(first, first + micro_batch)
            prompted = family.prompted(CAPTION, 0.0).repeat(len(latents_KCHW[rows]))
            seeds = self.groups[0].sample_seeds[rows]
            points = training_points(objective, latents_KCHW[rows], prompted.conditions, seeds, sigmas)
            parts.append((points, advantages[rows].repeat_interleave(self.options.timesteps)))
        trained = list(lora.tensors(family.transformer, lora.TRAINED).values())
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
        count = self.options.samples * self.options.timesteps

        def update() -> float:
            for points, weight_B in parts:
                velocity = family.velocity(points.noised, points.sigma, points.conditions)
                error_B = (velocity - (points.noise - points.clean)).square().flatten(1).mean(1)
                ((weight_B * error_B).sum() / count).backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return norm.item()

        return update

    def flops(self) -> Flops:
        """Of one sample at one sigma."""
        config, pixels = transformer_config(self.options.family, self.options.tiny), self.options.size
        count = TRANSFORMERS[load(self.options.family)["class"]]
        text = self.family.prompted(CAPTION, 0.0).conditions.tensors["prompt_embeds"].shape[1]
        return count(config, self.family.tokens(pixels, pixels), text)

    def tflop_per_sample(self) -> float:
        """Forward, backward to the LoRA and, with --kl, the reference's forward; what checkpointing computes again is not counted."""
        config, flops = transformer_config(self.options.family, self.options.tiny), self.flops()
        width = config.get("dim") or config["num_attention_heads"] * config["attention_head_dim"]
        once = flops.training(2 * self.options.rank / width) + (flops.forward if self.options.kl else 0.0)
        return self.options.timesteps * once / 1e12


@torch.no_grad()
def move_off_zero(family: Family) -> None:
    """Gives the trained LoRA's B matrices numbers: of zeros, they would leave half of the LoRA without a gradient."""
    for name, parameter in lora.tensors(family.transformer, lora.TRAINED).items():
        if name.endswith(lora.B):
            parameter.normal_(std=1e-2, generator=torch.Generator(parameter.device).manual_seed(0))


def made_up_samples(family: Family, count: int, size: int) -> tuple[tuple[UpdateGroup, ...], tuple[Latents, ...]]:
    """One group of noise with advantages about -1 to 1."""
    generator = np.random.default_rng(0)
    seeds = tuple(int(seed) for seed in generator.integers(0, 2**62, count))
    advantages = tuple(generator.uniform(-1, 1, count).tolist())
    latents_KCHW = generator.normal(size=(count, *family.latent_shape(size, size))).astype(np.float32)
    return (UpdateGroup(1, 0, "p", CAPTION, 0, advantages, seeds),), (Latents(latents_KCHW),)


def measure(bench: Bench, micro_batch: int, checkpointing: bool, agreement: float, peak: float) -> dict[str, Any]:
    """A row. Raises RuntimeError where the two gradients disagree."""
    transformer: Any = bench.family.transformer
    (transformer.enable_gradient_checkpointing if checkpointing else transformer.disable_gradient_checkpointing)()
    row: dict[str, Any] = {"micro_batch": micro_batch, "checkpointing": checkpointing}
    try:
        ours, by_hand = bench.ours(micro_batch), bench.by_hand(micro_batch)
        norm, expected = ours(), by_hand()
        with peak_memory(bench.device) as memory:
            ours()
        seconds = take_turns({"ours": ours, "by_hand": by_hand}, bench.options.repeats, bench.device)
    except torch.OutOfMemoryError:
        transformer.zero_grad(set_to_none=True)  # what a broken backward left is not the next row's
        return {**row, "out_of_memory": True}
    row["difference"] = abs(norm / expected - 1)
    if bench.options.kl == 0 and not row["difference"] < agreement:
        raise RuntimeError(f"our gradient has the norm {norm:.4g}, that by hand {expected:.4g}: {row}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rate = bench.options.samples / medians["ours"]
    return row | {
        "seconds": medians,
        "samples_per_s": rate,
        "ratio": median_of_pairs(seconds["by_hand"], seconds["ours"]),
        "share_of_peak": rate * bench.tflop_per_sample() * 1e12 / peak,
        "peak_mb": memory.mb,
    }


def table(results: dict[str, Any]) -> Table:
    """A line per micro-batch, without and with checkpointing."""
    names = ("family", "size", "samples", "timesteps", "tflop_per_sample")
    family, size, samples, timesteps, tflop = (results[name] for name in names)
    title = f"AWM on {family}, {size} px, {samples} samples at {timesteps} sigmas, {tflop:.3g} TFLOP a sample"
    speed = ("s a step", "samples/s", "ratio to\nby hand", "share\nof peak")
    made = Table("micro-batch", "check-\npointing", *speed, "peak MB", title=title)
    for row in results["rows"]:
        start = (str(row["micro_batch"]), "yes" if row["checkpointing"] else "no")
        if "out_of_memory" in row:
            made.add_row(*start, "out of memory")
            continue
        made.add_row(
            *start, f"{row['seconds']['ours']:.3f}", f"{row['samples_per_s']:.3g}", f"[bold]{row['ratio']:.2f}[/]",
            f"{row['share_of_peak']:.2f}", f"{row['peak_mb']:.0f}",
        )  # fmt: skip
    return made


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = command_line("bench.learner", __doc__)
    parser.add_argument("--family", choices=IMAGE_MODELS, default="sd3.5-medium")
    parser.add_argument("--size", type=int, help="pixels of an edge (512; 64 with --tiny)")
    parser.add_argument("--samples", type=int, help="of a step (8; 2 with --tiny)")
    parser.add_argument("--micro-batch", type=int, nargs="+", help="samples per backward (1 2 4 8; 1 2 with --tiny)")
    parser.add_argument("--tokens", type=int, help="of the caption (what the family's encoders give; 20 with --tiny)")
    parser.add_argument("--timesteps", type=int, default=2, help="sigmas at which a sample is trained (2)")
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA (32)")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the distance to the reference (0: none)")
    options = parser.parse_args(arguments)
    device, dtype = start(options)
    fill_in(options, TINY if options.tiny else {**USUAL, "tokens": IMAGE_MODELS[options.family].caption_tokens})
    asked = {name: getattr(options, name) for name in ASKED}
    around = surroundings(device, dtype)
    bench = Bench(options, device, dtype)
    rows = [
        measure(bench, micro_batch, checkpointing, AGREEMENT[dtype], around["peak_flop_per_s"])
        for micro_batch in options.micro_batch
        for checkpointing in (False, True)
    ]
    results = around | asked | {"tflop_per_sample": bench.tflop_per_sample(), "rows": rows}
    finish(results, [table(results)], options.out / f"learner_{options.family}.json")


if __name__ == "__main__":
    main()
