"""The judge's course: true captions of any scene, clean or badly drawn, beyond the prompts' grammar; false ones as tests.

Relations come first, until the four directions are told apart.
"""

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlavaForConditionalGeneration

from toy import prompts
from toy.chat import QUERY, Chat, Turns, prefers_truth, token_weights
from toy.judge import SPECIAL, Plan, make_processor
from toy.prompts import RELATIONS, SINGLE_PHRASES, TWO_PHRASES, plural, relations, thing_words
from toy.world import COLOURS, SHAPES, Scene, degrade, place, render

COUNTS = {1: "a", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATION_WORDS = ("left", "right", "above", "below")
EXCHANGEABLE = (
    COLOURS,
    SHAPES,
    tuple(map(plural, SHAPES)),
    tuple(COUNTS.values())[1:],
    ("left", "right"),
    ("above", "below"),
)
PHRASE_WORDS = " ".join((*SINGLE_PHRASES, *TWO_PHRASES, *RELATIONS)).replace("{}", "").split()
WORDS = tuple(dict.fromkeys((*PHRASE_WORDS, "and", *(word for words in EXCHANGEABLE for word in words))))
QUERY_WORDS = ("describe", "this", "image", "in", "detail", "the", "what", "is", "of", "picture", ".", "?", ",")
SHARES = {
    "single": 0.06,
    "two": 0.1,
    "counting": 0.18,
    "colours": 0.08,
    "position": 0.28,
    "attribution": 0.18,
    "list": 0.12,
}

Case = tuple[np.ndarray, str, str]  # an image, its caption, a false caption


def any_kinds(number: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`number` different (colour, shape) kinds; half the time they share their shape or their colour."""
    pool = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    first = pool[rng.integers(len(pool))]
    same = rng.random()
    if same < 0.5:
        pool = [kind for kind in pool if kind[1 if same < 0.3 else 0] == first[1 if same < 0.3 else 0]]
    others = [pool[index] for index in rng.permutation(len(pool)) if pool[index] != first]
    return [first, *others[: number - 1]]


def sample(rng: np.random.Generator) -> tuple[Scene, str]:
    """A scene and a true caption of it, of a random category."""
    category = list(SHARES)[rng.choice(len(SHARES), p=list(SHARES.values()))]
    if category == "position":
        return sample_relation(rng)
    if category in ("single", "colours", "counting"):
        count = 1 if category != "counting" else int(rng.integers(2, 7))
        kind = any_kinds(1, rng)[0]
        scene = place([kind] * count, rng)
        phrase = SINGLE_PHRASES[rng.integers(len(SINGLE_PHRASES))]
        return scene, phrase.format(kind[1]) if category == "single" else group_words(count, *kind)
    if category == "two":
        scene = place(any_kinds(2, rng), rng)
        return scene, TWO_PHRASES[rng.integers(len(TWO_PHRASES))].format(*(thing.shape for thing in scene))
    if category == "attribution":
        scene = place(any_kinds(2, rng), rng)
        return scene, " and ".join(group_words(1, thing.colour, thing.shape) for thing in scene)
    kinds = any_kinds(int(rng.integers(2, 5)), rng)
    scene = place([kind for kind in kinds for _ in range(rng.integers(1, 4))], rng)
    return scene, " and ".join(group_words(*group) for group in prompts.mentioned(scene)[:4])


def sample_relation(rng: np.random.Generator) -> tuple[Scene, str]:
    """Two things in a clear relation, and the caption that says so."""
    while True:
        scene = place(any_kinds(2, rng), rng)
        if found := relations(*scene):
            return scene, relation_words(scene, found[0])


def relation_words(scene: Scene, relation: str) -> str:
    """(red circle, blue square), left of -> "a red circle left of a blue square"."""
    first, second = (group_words(1, thing.colour, thing.shape) for thing in scene)
    return f"{first} {relation} {second}"


def group_words(count: int, colour: str, shape: str) -> str:
    """(3, red, circle) -> "three red circles"."""
    return f"{COUNTS[count]} {thing_words(colour, shape if count == 1 else plural(shape))}"


def one_word_wrong(caption: str, rng: np.random.Generator) -> str:
    """The caption with one colour, shape, number or relation exchanged for another."""
    words = caption.split()
    places = [(index, group) for index, word in enumerate(words) for group in EXCHANGEABLE if word in group]
    index, group = places[rng.integers(len(places))]
    words[index] = [word for word in group if word != words[index]][rng.integers(len(group) - 1)]
    return " ".join(words)


def flip_cases(number: int) -> dict[str, list[Case]]:
    """For each direction, images with the true relation and with its opposite; half of the images are badly drawn."""
    rng = np.random.default_rng(1)
    cases: dict[str, list[Case]] = {relation: [] for relation in RELATIONS}
    while any(len(some) < number for some in cases.values()):
        scene = place(any_kinds(2, rng), rng)
        for relation in relations(*scene):
            image = _drawn(scene, rng)
            cases[relation].append((image, relation_words(scene, relation), relation_words(scene, OPPOSITE[relation])))
    return cases


def hard_cases(number: int) -> dict[str, list[Case]]:
    """For each category of prompts, images with the true caption and with one that has a word wrong."""
    rng = np.random.default_rng(2)
    cases: dict[str, list[Case]] = {category: [] for category in prompts.CATEGORIES}
    for category in prompts.CATEGORIES:
        every = list(prompts.grammar(category))
        while len(cases[category]) < number:
            prompt = every[rng.integers(len(every))]
            scene = prompts.scene_for(prompt, rng)
            false = one_word_wrong(prompt["caption"], rng)
            if not _still_true(scene, false):
                cases[category].append((_drawn(scene, rng), prompt["caption"], false))
    return cases


def _still_true(scene: Scene, caption: str) -> bool:
    """Whether a changed caption of one or two shapes without colours happens to fit the scene; only `two` can."""
    named = sorted(word for word in caption.split() if word in SHAPES)
    coloured = any(word in COLOURS for word in caption.split())
    return not coloured and named == sorted(thing.shape for thing in scene)


def _drawn(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene, clean or bad with even odds."""
    return degrade(scene, rng) if rng.random() < 0.5 else render(scene, rng)


def make_tokenizer() -> Tokenizer:
    """A token for each word of the grammar."""
    words = dict.fromkeys((*SPECIAL, *QUERY_WORDS, *WORDS))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


class Captioning:
    """A `Course`. `cases`: of a direction or category, by which it is judged."""

    def __init__(self, cases: int = 200) -> None:
        self.cases = cases
        self.processor = make_processor(make_tokenizer())
        self.chat = Chat(self.processor)

    def turns(self, first_stage: bool, plan: Plan, rng: np.random.Generator) -> Turns:
        """See `Course`."""
        images, texts = [], []
        for _ in range(plan.batch):
            scene, caption = sample_relation(rng) if first_stage else sample(rng)
            images.append(degrade(scene, rng) if rng.random() < plan.bad_drawings else render(scene, rng))
            texts.append(one_word_wrong(caption, rng) if rng.random() < plan.wrong_captions else caption)
        return Turns(np.stack(images), [QUERY] * plan.batch, texts)

    def weights(self, first_stage: bool) -> torch.Tensor:
        """See `Course`: relation words count more."""
        return token_weights(self.processor, {5.0 if first_stage else 2.0: list(RELATION_WORDS)})

    def passed(self, model: LlavaForConditionalGeneration) -> bool:
        """Whether each true relation is likelier than its opposite in 97 % of the images."""
        asked = flip_cases(self.cases).values()
        return min(prefers_truth(model, self.chat, cases) for cases in asked) >= 0.97

    def gates(self, model: LlavaForConditionalGeneration) -> dict[str, float]:
        """How often the truth beats a hard negative, by direction and by category, on clean and bad drawings."""
        cases = flip_cases(self.cases) | hard_cases(self.cases)
        return {name: prefers_truth(model, self.chat, some) for name, some in cases.items()}
