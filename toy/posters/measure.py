"""How good readers are as judges: on images of the image model, against the exact checker, and on drawings.

Axes: P prompts, K images of a prompt.
"""

import math
import re
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from toy import image_model
from toy.chat import QUERY, Chat, Turns
from toy.posters import lessons
from toy.posters.checker import check
from toy.posters.prompts import CATEGORIES, Prompt, files, poster_for, sample
from toy.posters.reader import drawn, say
from toy.posters.tokens import pieces

JUDGED = ("label", "caption", "yes", "score", "expected score")
IMAGES = 8  # of a prompt


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, Chat]:
    """A reader in float32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Chat(AutoProcessor.from_pretrained(folder))


def figures(reader: Path, image: Path, number: int) -> dict[str, dict[str, float]]:
    """AUC of each way to judge, within prompts, by category; and how many drawn posters are read without a mistake."""
    model, chat = load(reader)
    pipe = image_model.load(image)
    rows: dict[str, dict[str, float]] = {f"auc {name}": {} for name in JUDGED}
    for category in CATEGORIES:
        asked = [prompt for prompt in files()["heldout"] if prompt["category"] == category][:number]
        images_PKHWC = image_model.draw(pipe, [p["caption"] for p in asked for _ in range(IMAGES)], 1.0, seed=1)
        images_PKHWC = images_PKHWC.reshape(len(asked), IMAGES, *images_PKHWC.shape[1:])
        right_PK = np.array([check(some, prompt)["accuracy"] for some, prompt in zip(images_PKHWC, asked, strict=True)])
        judged = [judge(model, chat, some, prompt) for some, prompt in zip(images_PKHWC, asked, strict=True)]
        for name in JUDGED:
            rows[f"auc {name}"][category] = auc_within(np.array([of[name] for of in judged]), right_PK == 1)
    rows |= {"read without a mistake": read_exactly(model, chat, 8 * number)}
    for row in rows.values():
        row["mean"] = float(np.mean(list(row.values())))
    return rows


def judge(model: LlavaForConditionalGeneration, chat: Chat, images_KHWC: np.ndarray, prompt: Prompt) -> dict:
    """Each of JUDGED for images of a prompt, K numbers."""
    number, caption = len(images_KHWC), prompt["caption"]

    def echo(query: str, answer: str) -> np.ndarray:
        return chat.log_probs(model, Turns(images_KHWC, [query] * number, [answer] * number)).numpy()

    ask, grade = lessons.ASK.format(caption=caption), lessons.GRADE.format(caption=caption)
    answers = [lessons.scored(score) for score in range(lessons.HIGHEST + 1)]
    log_p = np.stack([len(pieces(answer)) * echo(grade, answer) for answer in answers])
    shares = np.exp(log_p - log_p.max(0))
    return {
        "label": echo(lessons.READ, prompt["label"]),
        "caption": echo(QUERY, caption),
        "yes": echo(ask, "Yes") - echo(ask, "No"),
        "score": np.array([score_of(text) for text in say(model, chat, images_KHWC, grade)]),
        "expected score": (np.arange(len(answers))[:, None] * shares).sum(0) / shares.sum(0),
    }


def score_of(text: str) -> float:
    """The score that was written; NaN where there is none."""
    found = re.fullmatch(r'\{"score": (\d+)\}', text)
    return float(found[1]) if found else math.nan


def auc_within(scores_PK: np.ndarray, right_PK: np.ndarray) -> float:
    """The share of pairs (right, wrong) of one prompt's images that the scores put in order; half where they put them in none."""
    pairs_PKK = right_PK[:, :, None] & ~right_PK[:, None, :]
    one_PKK, other_PKK = scores_PK[:, :, None], scores_PK[:, None, :]
    ordered_PKK = 0.5 + 0.5 * ((one_PKK > other_PKK) * 1.0 - (one_PKK < other_PKK))
    return float(ordered_PKK[pairs_PKK].mean())


def read_exactly(model: LlavaForConditionalGeneration, chat: Chat, number: int) -> dict[str, float]:
    """The share of drawn posters, half of them badly, of which the reader writes the label."""
    rng = np.random.default_rng(3)
    shares = {}
    for category in CATEGORIES:
        prompts = [sample(category, lessons.EVERY_WORD, rng) for _ in range(number)]
        images = np.stack([drawn(poster_for(prompt, rng), rng) for prompt in prompts])
        said = say(model, chat, images, lessons.READ)
        shares[category] = float(np.mean([text == p["label"] for text, p in zip(said, prompts, strict=True)]))
    return shares
