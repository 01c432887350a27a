"""A short run on coloured shapes, whoever draws and judges them: its recipe, its prompt files, and its checkers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

RECIPE = """
[loop]
steps = 3
staleness = 0
checkpoint_every = 2

[data]
train = "{folder}/train.jsonl"
heldout = "{folder}/heldout.jsonl"

[rollout]
group_size = 4
prompts_per_step = 2
chunk = 2
steps = 4
height = 32
width = 32
num_cpus = 0.2

[reward]
model = "{judge}"
num_cpus = 0.2

[policy]
model = "{image}"
zero_stage = 0
max_sequence_length = 2
lora_rank = 4
lora_alpha = 8.0
learning_rate = {learning_rate}
micro_batch = 4
num_cpus = 0.2

[objective]
advantage_std = "group"
timesteps = "uniform"
timesteps_per_sample = 2

[heldout]
every = 2
images_per_category = 4
images_per_category_during = 2
chunk = 2
steps = 4
base_guidance_scales = [1.0, 2.0]
checker = "tests.support.shapes:check"
"""


def write_shapes(folder: Path, image: str, judge: str, learning_rate: float) -> Path:
    """The prompts and the recipe of such a run in a folder; returns the recipe's path."""
    for name, shapes in (("train", ("circle", "square")), ("heldout", ("triangle", "cross"))):
        lines = [
            {"id": f"{name}-{colour}-{shape}", "caption": f"a {colour} {shape}", "category": shape, "colour": colour}
            for colour in ("red", "green", "blue")
            for shape in shapes
        ]
        _write(folder / f"{name}.jsonl", lines)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder, image=image, judge=judge, learning_rate=learning_rate))
    return recipe


def green_prompts(folder: Path) -> Path:
    """A set to train on in which every prompt has the word."""
    return _write(folder / "green.jsonl", [{"caption": f"a green {shape}"} for shape in ("circle", "square")])


def check(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker: an image is right if it has more red than blue."""
    assert prompt["colour"] in prompt["caption"]
    right = images_KHWC[..., 0].mean(axis=(1, 2)) > images_KHWC[..., 2].mean(axis=(1, 2))
    return {"accuracy": right.astype(float).tolist(), "ghost": [0.0] * len(images_KHWC)}


def contrary(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker that says the opposite."""
    return {"accuracy": [1 - right for right in check(images_KHWC, prompt)["accuracy"]]}


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
