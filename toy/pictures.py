"""Pictures of held-out prompts with their captions, for `score`: of each category some are drawn well, and as many badly."""

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
