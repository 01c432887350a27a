"""Pictures: of held-out prompts with their captions, for `score`, half of them drawn badly; and of others without, for `caption`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from toy import prompts
from toy.world import degrade, render

OF_CATEGORY = 4  # of each kind


def write_pictures(folder: Path) -> None:
    """Writes PNGs and their metadata.jsonl into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for category in prompts.CATEGORIES:
        heldout = [prompt for prompt in prompts.files()["heldout"] if prompt["category"] == category]
        for number, index in enumerate(rng.permutation(len(heldout))[: 2 * OF_CATEGORY]):
            good = number < OF_CATEGORY
            scene = prompts.scene_for(heldout[index], rng)
            name = f"{category}-{number % OF_CATEGORY}-{'good' if good else 'bad'}.png"
            Image.fromarray((render if good else degrade)(scene, rng)).save(folder / name)
            lines.append({"file_name": name, "caption": heldout[index]["caption"]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_bare_pictures(folder: Path, count: int) -> None:
    """Writes PNGs of prompts to train on, as they should be drawn, into a folder: what they show stands nowhere."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    train = prompts.files()["train"]
    for number, index in enumerate(rng.permutation(len(train))[:count]):
        Image.fromarray(render(prompts.scene_for(train[index], rng), rng)).save(folder / f"{number:04d}.png")
