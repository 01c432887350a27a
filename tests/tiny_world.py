"""A whole run's needs in a folder, made in a second: tiny random models, prompt files, a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from bench.tiny_models import make_tiny_llava
from bench.tiny_sd3 import make_tiny_sd3
from tests.support.plain_world import write_prompts

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
model = "{folder}/judge"
num_cpus = 0.2

[policy]
model = "{folder}/image"
zero_stage = 0
max_sequence_length = 2
lora_rank = 4
lora_alpha = 8.0
learning_rate = 1e-3
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
checker = "tests.tiny_world:check"
"""


def make_tiny_world(folder: Path) -> Path:
    """Returns the recipe's path."""
    make_tiny_sd3(folder / "image")
    make_tiny_llava(folder / "judge")
    write_prompts(folder)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder))
    return recipe


def unscorable(world: Path, folder: Path) -> dict[str, object]:
    """Settings of a run that can score no training prompt, though its judge begins well; their files come into `folder`."""
    prompts = folder / "green.jsonl"
    prompts.write_text("".join(json.dumps({"caption": f"a green {shape}"}) + "\n" for shape in ("circle", "square")))
    return {"reward__model": blind_to(world / "judge", "green", folder / "blind"), "data__train": prompts}


def check(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker: an image is right if it has more red than blue."""
    assert prompt["colour"] in prompt["caption"]
    return {
        "accuracy": (images_KHWC[..., 0].mean(axis=(1, 2)) > images_KHWC[..., 2].mean(axis=(1, 2)))
        .astype(float)
        .tolist(),
        "ghost": [0.0] * len(images_KHWC),
    }


def contrary(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker that says the opposite."""
    return {"accuracy": [1 - right for right in check(images_KHWC, prompt)["accuracy"]]}


def blind_to(judge: Path, word: str, folder: Path) -> Path:
    """A copy of the judge whose embedding of `word` is NaN: it can score every caption but those with the word."""
    processor = AutoTokenizer.from_pretrained(judge)
    model = LlavaForConditionalGeneration.from_pretrained(judge)
    with torch.no_grad():
        for spelling in (word, f" {word}"):
            model.get_input_embeddings().weight[processor(spelling, add_special_tokens=False).input_ids] = float("nan")
    shutil.copytree(judge, folder)
    model.save_pretrained(folder)
    return folder
