"""A whole run's needs in a folder, made in a second: tiny random models, prompt files, a recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from tests.support.shapes import green_prompts, write_shapes
from toy.random_models.sd3 import make_tiny_sd3
from toy.random_models.vlms import make_tiny_llava


def make_tiny_world(folder: Path) -> Path:
    """Returns the recipe's path."""
    make_tiny_sd3(folder / "image")
    make_tiny_llava(folder / "judge")
    return write_shapes(folder, image=f"{folder}/image", judge=f"{folder}/judge", learning_rate=1e-3)


def unscorable(world: Path, folder: Path) -> dict[str, object]:
    """Settings of a run that can score no training prompt, though its judge begins well; their files come into `folder`."""
    return {"reward__model": blind_to(world / "judge", "green", folder / "blind"), "data__train": green_prompts(folder)}


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
