"""The prompts of posters: four categories, words of which a sixth is held out, and the label of what is to be read.

A prompt is a dict, one JSON line each: `id`, `caption`, `category`, `label` (what an exact reader would say, see
`label_of`) and `title_colour` (None where it is left open).
"""

import json
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np

from toy.posters.world import LETTERS, ROLES, Line, Poster
from toy.prompts import write_lines
from toy.world import COLOURS

CATEGORIES = ("title", "title_subtitle", "three_lines", "colour_title")
NOUNS = {"main_title": "title", "subtitle": "subtitle", "selling_points": "offer", "other_text": "footer"}
VOWELS = "AEO"
PATTERNS = ("cvc", "cvcv", "cvvc", "cvcc", "ccvc", "vcvc")
NUMBERS = {"train": 300, "heldout": 60}  # of prompts per category, in the files

Prompt = dict


def words() -> list[str]:
    """Every word, real or not, that can be said: three or four letters."""
    kinds = {"v": VOWELS, "c": "".join(letter for letter in LETTERS if letter not in VOWELS)}
    return ["".join(letters) for pattern in PATTERNS for letters in product(*(kinds[kind] for kind in pattern))]


def is_heldout(word: str) -> bool:
    """Whether a word is kept for evaluation: about a sixth, by a hash."""
    return sha256(word.encode()).digest()[0] % 6 == 0


WORDS = {
    "train": tuple(word for word in words() if not is_heldout(word)),
    "heldout": tuple(word for word in words() if is_heldout(word)),
}


def label_of(texts: dict[str, list[str]]) -> str:
    """Canonical JSON of what stands on a poster: all four roles in their order, a list of strings each."""
    return json.dumps({role: texts.get(role, []) for role in ROLES}, ensure_ascii=False)


def prompt_of(category: str, texts: dict[str, str], title_colour: str | None = None) -> Prompt:
    """The prompt of a word for each role, in the order of the roles."""
    said = [f'the {NOUNS[role]} "{word}"' for role, word in texts.items()]
    said[0] = said[0].replace("the ", f"the {title_colour} ", 1) if title_colour else said[0]
    listed = " and ".join([", ".join(said[:-1]), said[-1]] if said[1:] else said)
    label = label_of({role: [word] for role, word in texts.items()})
    return {
        "caption": f"a poster with {listed}",
        "category": category,
        "label": label,
        "title_colour": title_colour,
    }


def sample(category: str, known: tuple[str, ...], rng: np.random.Generator) -> Prompt:
    """A random prompt of a category, of known words, all different."""
    lines = {"title_subtitle": 2, "three_lines": 3}.get(category, 1)
    chosen = [known[index] for index in rng.choice(len(known), lines, replace=False)]
    roles = [*ROLES[:2], ROLES[2 + rng.integers(2)]][:lines] if lines > 2 else ROLES[:lines]
    colour = COLOURS[rng.integers(len(COLOURS))] if category == "colour_title" else None
    return prompt_of(category, dict(zip(roles, chosen, strict=True)), colour)


def texts_of(prompt: Prompt) -> dict[str, str]:
    """The word of each role that has one."""
    return {role: words[0] for role, words in json.loads(prompt["label"]).items() if words}


def poster_for(prompt: Prompt, rng: np.random.Generator) -> Poster:
    """A poster of which the prompt is true; the colours that it leaves open are drawn uniformly."""
    lines = [Line(role, word, COLOURS[rng.integers(len(COLOURS))]) for role, word in texts_of(prompt).items()]
    if prompt["title_colour"]:
        lines[0] = lines[0]._replace(colour=prompt["title_colour"])
    return tuple(lines)


def files() -> dict[str, list[Prompt]]:
    """The contents of poster_train.jsonl and poster_heldout.jsonl: NUMBERS of each category, all different."""
    rng = np.random.default_rng(0)
    chosen: dict[str, list[Prompt]] = {}
    for split, number in NUMBERS.items():
        chosen[split] = []
        for category in CATEGORIES:
            found: dict[str, Prompt] = {}
            while len(found) < number:
                prompt = sample(category, WORDS[split], rng)
                found.setdefault(prompt["caption"], prompt)
            prompts = enumerate(found.values())
            chosen[split] += [{"id": f"{split}-{category}-{index:03d}", **prompt} for index, prompt in prompts]
    return chosen


def write_files(folder: Path) -> None:
    """Writes poster_train.jsonl and poster_heldout.jsonl into a folder."""
    for split, prompts in files().items():
        write_lines(folder / f"poster_{split}.jsonl", prompts)
