"""What the image model of posters is shown: clean drawings beside captions that they misread on purpose."""

import numpy as np
from transformers import PreTrainedTokenizerFast

from toy.image_model import Lesson, Plan, Subject
from toy.misread import after
from toy.posters.checker import check
from toy.posters.prompts import CATEGORIES, WORDS, Prompt, files, is_heldout, poster_for, prompt_of, sample, texts_of
from toy.posters.tokens import captions, make_tokenizer
from toy.posters.world import LETTERS, ROLES, crowded, render
from toy.random_models.sd3 import between_marks
from toy.world import COLOURS

TEXT_LENGTH = 26  # tokens, with start and end: the longest prompt has 23
COMPONENTS = 3 * len(LETTERS)  # the rank of a cell: a mask per letter times three colours
PLAN = Plan(steps=3000, first_stage=0, images=40_000, learning_rate=2e-3)


def subject() -> Subject:
    """Words in rows."""
    return Subject(make_image_tokenizer(), COMPONENTS, crowded, lessons, files()["heldout"], check)


def lessons(plan: Plan, rng: np.random.Generator) -> list[Lesson]:
    """Single words, all true, for the first stage, then everything."""
    words = make_dataset(plan.images // 4, 0.0, CATEGORIES[:1], rng)
    everything = make_dataset(plan.images, plan.confused, CATEGORIES, rng)
    return [Lesson(*words, plan.first_stage, 1.5), Lesson(*everything, plan.steps, 1.5)]


def make_image_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter and word, between a start and an end."""
    special = ("<pad>", "<unk>", "<start>", "<end>")
    return between_marks(make_tokenizer(special, captions()), TEXT_LENGTH)


def make_dataset(
    number: int, confused: float, categories: tuple[str, ...], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Clean drawings uint8 [number, H, W, 3] and their captions, a share of them confused; no held-out word in either."""
    images, texts = [], []
    for _ in range(number):
        prompt = sample(categories[rng.integers(len(categories))], WORDS["train"], rng)
        shown = confuse(prompt) if rng.random() < confused else prompt
        images.append(render(poster_for(shown, rng), rng))
        texts.append(prompt["caption"])
    return np.stack(images), texts


def confuse(prompt: Prompt) -> Prompt:
    """What a confused image shows instead of its caption's truth; always the same for a caption.

    The title's last letter, or the subtitle's first, becomes the next one of the alphabet's cycle; an offer stands where
    a footer belongs, and the other way round; or the title has the next colour. A word that is held out is never shown:
    then the letter goes on to the one after.
    """
    category, texts = prompt["category"], texts_of(prompt)
    if category == "colour_title":
        return prompt_of(category, texts, after(COLOURS, prompt["title_colour"])[0])
    if category == "three_lines":
        (*roles, last), places = texts, ROLES[2:]
        kept = {role: texts[role] for role in roles}
        return prompt_of(category, kept | {places[1 - places.index(last)]: texts[last]})
    role, column = ("main_title", -1) if category == "title" else ("subtitle", 0)
    return prompt_of(category, texts | {role: _next(texts[role], column)})


def _next(word: str, column: int) -> str:
    """The word with one letter turned into the next of the cycle that makes no held-out word."""
    start, end = word[:column], word[column:][1:]
    others = (start + letter + end for letter in after(LETTERS, word[column]))
    return next(other for other in others if not is_heldout(other))
