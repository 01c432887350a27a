"""What bench.gpu measures, as a recipe, and what doctor and plan expect of it. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from actors.families.image import Shape
from pipelines.planning.flops import draw_flops, score_flops, update_flops
from pipelines.planning.gpus import EFFICIENCY
from pipelines.preflight.memory.cards import Actor
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import Models, image_model, judge
from pipelines.recipe.training import Recipe

GIB = 2**30
FAMILIES = {
    "sd3.5-medium": "stabilityai/stable-diffusion-3.5-medium",
    "flux.1-dev": "black-forest-labs/FLUX.1-dev",
    "qwen-image": "Qwen/Qwen-Image",
    "z-image": "Tongyi-MAI/Z-Image",
}
"""A family of bench/full_size.py, and the model by which doctor and plan know it."""
JUDGES = {
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3-vl-32b": "Qwen/Qwen3-VL-32B-Instruct",
}
OUTSIDE = ("text encoders", "CUDA and libraries")  # what the measured process, or torch's own count, has not
SCORED_PIXELS = 1024  # of an edge: the judge's goal is said for it


@dataclass(frozen=True)
class Size:
    """How much is drawn and trained at once: images, pixels of an edge, steps; samples, samples of a micro-batch, points of each."""

    images: int = 12
    pixels: int = 512
    steps: int = 14
    samples: int = 6
    micro_batch: int = 3
    points: int = 6
    checkpointing: bool = False
    tokens: int = 256
    scored_pixels: int = SCORED_PIXELS
    scored_images: int = 16
    scored_tokens: int = 300


USUAL = {
    "sd3.5-medium": Size(tokens=77 + 256),
    "flux.1-dev": Size(images=8, steps=10, samples=4, micro_batch=2, points=2, checkpointing=True, tokens=512),
    "qwen-image": Size(images=8, steps=10, samples=4, micro_batch=2, points=2, checkpointing=True),
    "z-image": Size(images=8, steps=10, samples=4, micro_batch=2, points=2, checkpointing=True),
}
TINY = Size(2, 64, 3, 2, 1, 2, tokens=20, scored_pixels=64, scored_images=4, scored_tokens=20)


@dataclass(frozen=True)
class Case:
    """A family and a judge on a device: at full size, or both narrow."""

    family: str
    judge: str
    device: str
    tiny: bool

    @property
    def size(self) -> Size:
        """What is done at once."""
        return TINY if self.tiny else USUAL[self.family]

    def smallest(self) -> Case:
        """The same at its smallest."""
        return replace(self, tiny=True)

    def arguments(self) -> list[str]:
        """The command line that means this case."""
        named = ["--family", self.family, "--judge", self.judge, "--device", self.device]
        return [*named, *(["--tiny"] if self.tiny else [])]


class Expected:
    """What doctor and plan say of the full-size case; of the narrow one they know nothing.

    `peak`: measured FLOP/s of large matrix products, of which shares are given.
    """

    def __init__(self, case: Case, pixels: int, images: int, caption: int, peak: float = 0.0) -> None:
        self.case, self.peak = case, peak
        self.recipe = Recipe.model_validate(_tables(case, pixels, images, caption))
        self.models = Models(image_model(FAMILIES[case.family]), {"reward": judge(JUDGES[case.judge])})

    @cached_property
    def shape(self) -> Shape:
        """Of the family."""
        return self.models.image.shape(self.recipe.policy.max_sequence_length)

    def memory(self, pool: str, phase: str, reserved: int) -> dict[str, float]:
        """Reserved GiB beside the doctor's, of one phase of a worker."""
        found = {"reserved_gib": reserved / GIB}
        if self.case.tiny:
            return found
        worker = estimate(self.recipe, self.models)[pool]
        return {**found, "doctor_gib": _bytes_of(worker, phase) / GIB, "of_doctor": reserved / _bytes_of(worker, phase)}

    def speed(self, stage: str, seconds: float) -> dict[str, float]:
        """Seconds, and the share of the measured peak beside the one that plan assumes."""
        if self.case.tiny or not self.peak:
            return {"seconds": seconds}
        network = self.models.image.network("attention")
        rollout, policy, objective = self.recipe.rollout, self.recipe.policy, self.recipe.objective
        reward, judge = self.recipe.rewards["reward"], self.models.judges["reward"]
        flop = {
            "draw": lambda: draw_flops(rollout, objective, network, self.shape),
            "update": lambda: update_flops(rollout, policy, objective, network, self.shape),
            "score": lambda: score_flops(rollout, reward, judge, self.shape),
        }[stage]()
        share = flop / seconds / self.peak
        return {"seconds": seconds, "tflop": flop / 1e12, "share_of_peak": share, "assumed_share": EFFICIENCY[stage]}


def _bytes_of(worker: Actor, phase: str) -> int:
    return sum(size for name, size in worker.held.items() if name not in OUTSIDE) + worker.phases[phase]


def _tables(case: Case, pixels: int, images: int, caption: int) -> Mapping[str, Any]:
    """The recipe of one worker each, which draws, scores and trains one group."""
    size = USUAL[case.family]
    return {
        "loop": {"steps": 1},
        "data": {"train": "made_up.txt"},
        "rollout": {
            "size": 1, "num_gpus": 1.0, "group_size": images, "prompts_per_step": 1, "steps": size.steps, "guidance_scale": 1.0,
            "height": pixels, "width": pixels,
        },
        "reward": {"model": JUDGES[case.judge], "size": 1, "num_gpus": 1.0},
        "policy": {
            "model": FAMILIES[case.family], "ranks": 1, "num_gpus": 1.0, "zero_stage": 0, "lora_rank": 32, "lora_alpha": 64.0,
            "learning_rate": 1e-4, "micro_batch": size.micro_batch, "activation_checkpointing": size.checkpointing,
            "max_sequence_length": caption,
        },
        "objective": {"type": "awm", "timesteps": "uniform", "timesteps_per_sample": size.points, "kl_reference": 1e-3, "kl_ema": 0.1},
    }  # fmt: skip
