"""What a reader is taught to say of a poster: its prompt, its label, how well it fits a prompt, and whether it fits."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from toy.chat import QUERY
from toy.posters.prompts import CATEGORIES, Prompt, poster_for, prompt_of, sample, texts_of, words
from toy.posters.world import LETTERS, ROLES, Poster
from toy.world import COLOURS, GRID

READ = "Which text does this show, by its role? Answer in JSON."
GRADE = 'Does this figure show "{caption}"? Answer with a score from 0 to 10 in JSON.'
ASK = 'Does this figure show "{caption}"? Please answer yes or no.'
HIGHEST = 10
OFF_COLOUR = 5  # the highest score of a title in another colour than the prompt's
SHARES = {"describe": 0.2, "read": 0.2, "grade": 0.3, "ask": 0.3}
TRUE_SHARE = 0.4  # of the images that are graded and asked about, those that fit
EVERY_WORD = tuple(words())
T = TypeVar("T")


class Turn(NamedTuple):
    """A poster, what is asked, and the true answer."""

    poster: Poster
    query: str
    answer: str
    told: bool = False  # whether the query names what the poster shows


def turn(task: str, rng: np.random.Generator) -> Turn:
    """A random turn of a task."""
    prompt = sample(CATEGORIES[rng.integers(len(CATEGORIES))], EVERY_WORD, rng)
    if task == "describe":
        return Turn(poster_for(prompt, rng), QUERY, prompt["caption"])
    if task == "read":
        shown = misspelt(prompt, rng) if rng.random() < 0.3 else prompt
        return Turn(poster_for(shown, rng), READ, shown["label"])
    shown = prompt if rng.random() < TRUE_SHARE else wrong(prompt, rng)
    score = grade(prompt, shown)
    query, answer = (GRADE, scored(score)) if task == "grade" else (ASK, "Yes" if score == HIGHEST else "No")
    return Turn(poster_for(shown, rng), query.format(caption=prompt["caption"]), answer, score == HIGHEST)


def scored(score: int) -> str:
    """How a score is written."""
    return json.dumps({"score": score})


def grade(prompt: Prompt, shown: Prompt) -> int:
    """0 to HIGHEST: the share of cells that are right, of those that hold a letter or should; less in another colour."""
    wanted, seen = texts_of(prompt), texts_of(shown)
    rows = [(wanted.get(role, "").ljust(GRID), seen.get(role, "").ljust(GRID)) for role in ROLES]
    told = [want == see for row in rows for want, see in zip(*row, strict=True) if want != " " or see != " "]
    score = int(HIGHEST * sum(told) / len(told))
    return score if shown["title_colour"] == prompt["title_colour"] else min(score, OFF_COLOUR)


def wrong(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """Another prompt, most often one that is nearly the same."""
    changes = CHANGES if len(texts_of(prompt)) > 1 else CHANGES[:-1]
    return recoloured(prompt, rng) if prompt["title_colour"] and rng.random() < 0.4 else _any(changes, rng)(prompt, rng)


def misspelt(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """With one letter of one word exchanged for another; the word need not be one of the grammar's."""
    texts = texts_of(prompt)
    role = _any(list(texts), rng)
    word, column = texts[role], rng.integers(len(texts[role]))
    letter = _any([letter for letter in LETTERS if letter != word[column]], rng)
    return _with_texts(prompt, texts | {role: word[:column] + letter + word[column + 1 :]})


def twice_misspelt(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """With up to two letters exchanged, at least one."""
    again = misspelt(misspelt(prompt, rng), rng)
    return again if again["label"] != prompt["label"] else misspelt(prompt, rng)


def another(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """With one word exchanged for any other."""
    texts = texts_of(prompt)
    role = _any(list(texts), rng)
    return _with_texts(prompt, texts | {role: _any([word for word in EVERY_WORD if word != texts[role]], rng)})


def recoloured(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """With the title in another colour."""
    return prompt | {"title_colour": _any([colour for colour in COLOURS if colour != prompt["title_colour"]], rng)}


def unlike(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """With other words throughout, in the same roles."""
    others = {
        role: _any([other for other in EVERY_WORD if other != word], rng) for role, word in texts_of(prompt).items()
    }
    return _with_texts(prompt, others)


def swapped(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """With two words in each other's roles."""
    texts = texts_of(prompt)
    one, other = rng.choice(list(texts), 2, replace=False)
    return _with_texts(prompt, texts | {one: texts[other], other: texts[one]})


CHANGES: tuple[Callable, ...] = (misspelt, misspelt, twice_misspelt, another, unlike, swapped)


def _with_texts(prompt: Prompt, texts: dict[str, str]) -> Prompt:
    return prompt_of(prompt["category"], texts, prompt["title_colour"])


def _any(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def texts() -> list[str]:
    """Every query and answer but captions and labels, for a tokenizer."""
    asked = [query.format(caption="a") for query in (QUERY, READ, GRADE, ASK)]
    return [*asked, GRADE.format(caption='"A"'), "Yes", "No", *(scored(score) for score in range(HIGHEST + 1))]


def hard_cases(number: int, drawn: Callable, rng: np.random.Generator) -> dict[str, list[tuple[np.ndarray, str, str]]]:
    """For each category, images with the true label and with one that has a letter wrong."""
    cases: dict[str, list[tuple[np.ndarray, str, str]]] = {}
    for category in CATEGORIES:
        prompts = [sample(category, EVERY_WORD, rng) for _ in range(number)]
        cases[category] = [
            (drawn(poster_for(prompt, rng), rng), prompt["label"], misspelt(prompt, rng)["label"]) for prompt in prompts
        ]
    return cases
