"""The grammar: six categories of prompts in the manner of GenEval, split into training and held-out, and their scenes.

A prompt is a dict, one JSON line each: `id`, `caption`, `category`, `objects` (a list of {"shape", "colour" or None,
"count"}) and `relation` (None, or how the first object stands to the second).
"""

import json
from collections.abc import Iterator
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

from toy.world import COLOURS, SHAPES, Scene, Thing, holds, place

CATEGORIES = ("single", "two", "counting", "colours", "position", "attribution")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}
SINGLE_PHRASES = ("a {}", "one {}", "a single {}", "a lone {}", "just one {}")
TWO_PHRASES = ("a {} and a {}", "one {} and one {}", "a {} with a {}")
HELDOUT_SHAPE_PAIRS = ({"circle", "square"}, {"triangle", "cross"})
MOST_PROMPTS = {"train": 300, "heldout": 60}  # per category, in the files

Prompt = dict


def plural(shape: str) -> str:
    """The plural: circle -> circles, cross -> crosses."""
    return shape + ("es" if shape.endswith("s") else "s")


def thing_words(colour: str | None, shape: str) -> str:
    """(red, circle) -> "red circle"; without a colour, "circle"."""
    return f"{colour} {shape}" if colour else shape


def single(shape: str, phrase: str) -> Prompt:
    """One thing of any colour."""
    return _prompt("single", phrase.format(shape), [(None, shape, 1)])


def two(first: str, second: str, phrase: str) -> Prompt:
    """Two things of different shapes and any colours."""
    return _prompt("two", phrase.format(first, second), [(None, first, 1), (None, second, 1)])


def counting(count: int, colour: str, shape: str) -> Prompt:
    """Several things of one kind."""
    return _prompt("counting", f"{NUMBERS[count]} {colour} {plural(shape)}", [(colour, shape, count)])


def colours(colour: str, shape: str) -> Prompt:
    """One thing of a given colour."""
    return _prompt("colours", f"a {colour} {shape}", [(colour, shape, 1)])


def position(first: tuple[str, str], relation: str, second: tuple[str, str]) -> Prompt:
    """Two (colour, shape) kinds and how the first stands to the second."""
    caption = f"a {thing_words(*first)} {relation} a {thing_words(*second)}"
    return _prompt("position", caption, [(*first, 1), (*second, 1)], relation)


def attribution(first: tuple[str, str], second: tuple[str, str]) -> Prompt:
    """Two (colour, shape) kinds that differ in both, anywhere."""
    caption = f"a {thing_words(*first)} and a {thing_words(*second)}"
    return _prompt("attribution", caption, [(*first, 1), (*second, 1)])


def _prompt(category: str, caption: str, objects: list, relation: str | None = None) -> Prompt:
    named = [{"shape": shape, "colour": colour, "count": count} for colour, shape, count in objects]
    return {"caption": caption, "category": category, "objects": named, "relation": relation}


def grammar(category: str) -> Iterator[Prompt]:
    """Every prompt of a category, in a fixed order."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs = [(a, b) for a, b in permutations(kinds, 2) if a[0] != b[0] and a[1] != b[1]]
    if category == "single":
        yield from (single(shape, phrase) for shape in SHAPES for phrase in SINGLE_PHRASES)
    elif category == "two":
        yield from (two(a, b, phrase) for a, b in permutations(SHAPES, 2) for phrase in TWO_PHRASES)
    elif category == "counting":
        yield from (counting(count, *kind) for count in NUMBERS for kind in kinds)
    elif category == "colours":
        yield from (colours(*kind) for kind in kinds)
    elif category == "position":
        yield from (position(a, relation, b) for a, b in pairs for relation in RELATIONS)
    elif category == "attribution":
        yield from (attribution(a, b) for a, b in pairs)
    else:
        raise ValueError(f"unknown category {category!r}; the categories are {', '.join(CATEGORIES)}")


def is_heldout(prompt: Prompt) -> bool:
    """Whether a prompt is kept for evaluation. A pair is held out in both orders, with its colours swapped too."""
    category, objects = prompt["category"], prompt["objects"]
    shapes = [SHAPES.index(thing["shape"]) for thing in objects]
    if category == "single":
        phrase = next(i for i, p in enumerate(SINGLE_PHRASES) if p.format(objects[0]["shape"]) == prompt["caption"])
        return (phrase - shapes[0]) % len(SINGLE_PHRASES) < 2
    if category == "two":
        return {thing["shape"] for thing in objects} in HELDOUT_SHAPE_PAIRS
    tints = [COLOURS.index(thing["colour"]) for thing in objects]
    if category == "colours":
        return tints[0] % len(SHAPES) == shapes[0]
    if category == "counting":
        return (tints[0] + shapes[0] + objects[0]["count"]) % 4 == 0
    return _pair_is_heldout(tints, shapes)


def _pair_is_heldout(tints: list[int], shapes: list[int]) -> bool:
    """A fifth of the pairs (unordered colours, unordered shapes)."""
    tint_pairs = [set(pair) for pair in combinations(range(len(COLOURS)), 2)]
    shape_pairs = [set(pair) for pair in combinations(range(len(SHAPES)), 2)]
    return (tint_pairs.index(set(tints)) + shape_pairs.index(set(shapes))) % 5 == 0


def scene_is_heldout(scene: Scene) -> bool:
    """Whether a scene shows a held-out colours, counting or attribution prompt, whatever its caption says."""
    kinds = sorted({(thing.colour, thing.shape) for thing in scene})
    if len(kinds) == 1 and len(scene) == 1:
        return is_heldout(colours(*kinds[0]))
    if len(kinds) == 1 and len(scene) in NUMBERS:
        return is_heldout(counting(len(scene), *kinds[0]))
    if len(scene) == 2 and kinds[0][0] != kinds[1][0] and kinds[0][1] != kinds[1][1]:
        return is_heldout(attribution(*kinds))
    return False


def scene_for(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """A random scene of which the prompt is true: colours that it leaves open and cells are drawn uniformly."""
    kinds = [
        (thing["colour"] or COLOURS[rng.integers(len(COLOURS))], thing["shape"])
        for thing in prompt["objects"]
        for _ in range(thing["count"])
    ]
    while True:
        scene = place(kinds, rng)
        if prompt["relation"] is None or holds(scene[0], prompt["relation"], scene[1]):
            return scene


def files() -> dict[str, list[Prompt]]:
    """The contents of train.jsonl and heldout.jsonl: at most MOST_PROMPTS of each category, by a fixed shuffle."""
    chosen: dict[str, list[Prompt]] = {"train": [], "heldout": []}
    for category in CATEGORIES:
        prompts = list(grammar(category))
        for split, wanted in (("train", False), ("heldout", True)):
            of_split = [prompt for prompt in prompts if is_heldout(prompt) == wanted]
            order = np.random.default_rng(0).permutation(len(of_split))[: MOST_PROMPTS[split]]
            for number, index in enumerate(sorted(order)):
                chosen[split].append({"id": f"{split}-{category}-{number:03d}", **of_split[index]})
    return chosen


def write_files(folder: Path) -> None:
    """Writes train.jsonl and heldout.jsonl into a folder."""
    for split, prompts in files().items():
        write_lines(folder / f"{split}.jsonl", prompts)


def write_lines(path: Path, prompts: list[Prompt]) -> None:
    """Writes prompts as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))


def read_file(path: Path) -> list[Prompt]:
    """The prompts of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def mentioned(scene: Scene) -> list[tuple[int, str, str]]:
    """The (count, colour, shape) groups of a scene, in order of first appearance."""
    kinds = [(thing.colour, thing.shape) for thing in scene]
    return [(kinds.count(kind), *kind) for kind in dict.fromkeys(kinds)]


def relations(first: Thing, second: Thing) -> list[str]:
    """The relations that hold between two things: one, or none on a diagonal."""
    return [relation for relation in RELATIONS if holds(first, relation, second)]
