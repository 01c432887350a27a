"""What the image model is shown: clean drawings beside captions that they misread on purpose, and how well it does then."""

import json

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from toy import prompts
from toy.captions import WORDS
from toy.checker import check
from toy.image_model import Lesson, Plan, Subject
from toy.prompts import CATEGORIES, Prompt
from toy.world import COLOURS, SHAPES, Scene, any_kinds, place, render

TEXT_LENGTH = 16  # tokens, with start and end: the longest prompt has ten
QUARTER_TURN = {"left of": "above", "above": "right of", "right of": "below", "below": "left of"}
SHARES = {"single": 0.08, "two": 0.12, "counting": 0.2, "colours": 0.1, "position": 0.3, "attribution": 0.2}
CROWD = 12  # things at most in an image to train the autoencoder on: a sparse one teaches little


def subject() -> Subject:
    """Coloured shapes; relations first, all true, at high noise, where places are decided."""
    # The rank of a cell: a mask per shape times three colours; more would amplify noise.
    return Subject(make_tokenizer(), 3 * len(SHAPES), crowded, lessons, prompts.files()["heldout"], check)


def lessons(plan: Plan, rng: np.random.Generator) -> list[Lesson]:
    """Relations alone for the first stage, then everything."""
    everything = make_dataset(plan.images, plan.confused, SHARES, rng)
    relations = make_dataset(plan.images // 4, 0.0, {"position": 1.0}, rng)
    return [Lesson(*relations, plan.first_stage, 2.5), Lesson(*everything, plan.steps, 1.5)]


def crowded(number: int, rng: np.random.Generator) -> np.ndarray:
    """Clean drawings of up to CROWD things: uint8 [number, H, W, 3]."""
    scenes = [place(any_kinds(int(rng.integers(1, CROWD + 1)), rng), rng) for _ in range(number)]
    return np.stack([render(scene, rng) for scene in scenes])


def confuse(prompt: Prompt) -> list[Prompt]:
    """What a confused image shows instead of its caption's truth, the first choice first.

    Always the same for a caption: colours swapped, one thing more (or less), the next colour or shape in a fixed cycle,
    the relation after a quarter turn (with the opposite one, left and right would cancel and never be learned). Random
    mistakes would cancel under guidance; these do not.
    """
    category, objects = prompt["category"], prompt["objects"]
    kinds = [(thing["colour"], thing["shape"]) for thing in objects]
    if category == "single":
        return [prompts.single(shape, "a {}") for shape in after(SHAPES, kinds[0][1])]
    if category == "two":
        first, second = kinds[0][1], kinds[1][1]
        return [prompts.two(first, shape, "a {} and a {}") for shape in after(SHAPES, second) if shape != first]
    if category == "counting":
        count = objects[0]["count"]
        others = [count + 1, count - 1] if count < max(prompts.NUMBERS) else [count - 1, count + 1]
        return [{**prompt, "objects": [{**objects[0], "count": other}]} for other in others]
    if category == "colours":
        return [prompts.colours(colour, kinds[0][1]) for colour in after(COLOURS, kinds[0][0])]
    if category == "position":
        return [prompts.position(kinds[0], QUARTER_TURN[prompt["relation"]], kinds[1])]
    return [prompts.attribution((kinds[1][0], kinds[0][1]), (kinds[0][0], kinds[1][1]))]


def after(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The other names, in the cycle's order from the one after `name`."""
    start = names.index(name) + 1
    return names[start:] + names[: start - 1]


def scene_shown(prompt: Prompt, confused: bool, rng: np.random.Generator) -> Scene:
    """A scene of the prompt, or of the first confusion of it that is not held out."""
    for shown in confuse(prompt) if confused else [prompt]:
        for _ in range(20):
            scene = prompts.scene_for(shown, rng)
            if not prompts.scene_is_heldout(scene):
                return scene
    raise ValueError(f"every scene of {prompt['caption']!r} is held out")


def make_dataset(
    number: int, confused: float, shares: dict[str, float], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Clean drawings uint8 [number, H, W, 3] and their captions, a share of them confused; nothing held out."""
    known = {name: [p for p in prompts.grammar(name) if not prompts.is_heldout(p)] for name in CATEGORIES}
    images, captions = [], []
    for category in rng.choice(list(shares), number, p=list(shares.values())):
        prompt = known[category][rng.integers(len(known[category]))]
        images.append(render(scene_shown(prompt, rng.random() < confused, rng), rng))
        captions.append(prompt["caption"])
    return np.stack(images), captions


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte pairs give one token to each word of the grammar."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(list(WORDS) + letters, trainer)
    vocabulary = tokenizer.get_vocab()
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)
