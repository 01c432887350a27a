"""A group of images in the report: each word of its caption coloured by how well the image echoed it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.evaluation.comparison import known
from pipelines.run_folder.grids import read_grid

Record = dict[str, Any]
TINY = 64  # pixels: smaller images are kept exact and shown with hard edges


def scored_group(run_dir: Path, record: Record) -> Record:
    """A group with its caption's words coloured: over all images, and for each image with its reward."""
    words = words_of(record["tokens"])
    log_probs_KT, rewards_K = record["log_probs_KT"], record["rewards_K"]
    mean_T = [_mean([row[t] for row in log_probs_KT]) for t in range(len(words))]
    path = run_dir / record["image"] if record.get("image") else None
    pictures = [p for row in (read_grid(path) if path and path.is_file() else []) for p in map(picture, row.images)]
    images = [
        {
            "picture": pictures[k] if k < len(pictures) else None,
            "reward": reward_words(rewards_K[k]),
            "words": coloured(words, log_probs_KT[k]),
        }
        for k in range(len(log_probs_KT))
    ]
    order = sorted(range(len(images)), key=lambda k: rewards_K[k] if known(rewards_K[k]) else -math.inf)
    return {
        "which": record["which"],
        "step": record.get("step"),
        "prompt_id": record.get("prompt_id"),
        "reward": reward_words(_mean(rewards_K)),
        "words": coloured(words, mean_T),
        "images": images,
        "contrast": [images[order[-1]], images[order[0]]] if len(images) > 1 else images,
    }


def words_of(tokens: Sequence[str]) -> list[str]:
    """Tokens as they are printed one after the other: tokenizers mark a leading space, or have whole words."""
    marked = any(token[:1] in "Ġ▁ " for token in tokens if token)
    if marked:
        return [token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for token in tokens]
    return [
        token[2:] if token.startswith("##") else (" " if index else "") + token for index, token in enumerate(tokens)
    ]


def coloured(words: Sequence[str], log_probs_T: Sequence[float | None]) -> list[Record]:
    """The words with their style and, to be read under the pointer, their log-probability."""
    rows = []
    for word, log_prob in zip(words, log_probs_T, strict=True):
        probability = math.exp(log_prob) if known(log_prob) else None
        title = f"log p {log_prob:.2f}, p {100 * probability:.0f} %" if probability is not None else "not a number"
        text = word.lstrip() or word
        space = word[: len(word) - len(text)]
        rows.append({"space": space, "text": text, "style": echo_style(probability), "title": title.replace("-", "−")})
    return rows


def echo_style(probability: float | None) -> str:
    """The background of a word that the judge gave this probability: orange if missed, blue if echoed, clear at 25 %.

    The square root of p spreads the low probabilities, where words are missed. Orange and blue differ for every eye.
    """
    if probability is None:
        return ""
    echo = math.sqrt(min(1.0, max(0.0, probability)))
    red_green_blue, strength = ("219, 90, 18", 0.5 - echo) if echo < 0.5 else ("22, 110, 214", echo - 0.5)
    return f"background: rgba({red_green_blue}, {min(1.0, 2 * strength) * 0.62:.2f})"


def picture(image: Image.Image) -> Record:
    """An image as a data URI: exact if it is tiny, JPEG otherwise."""
    tiny = max(image.size) <= TINY
    buffer = io.BytesIO()
    if tiny:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=85)
    kind = "png" if tiny else "jpeg"
    return {"uri": f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", "tiny": tiny}


def picture_in(run: Path, name: str) -> Record | None:
    """The same of a file of a run folder; None if there is none, or no name."""
    path = run / name
    return picture(Image.open(path)) if name and path.is_file() else None


def reward_words(reward: float | None) -> str:
    """A reward with the same decimals in every row."""
    return f"{reward:.3f}".replace("-", "−") if known(reward) else "–"


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if known(value)]
    return sum(finite) / len(finite) if finite else None
