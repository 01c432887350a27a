"""The prompt files: complete, unique, disjoint, and what the grammar writes today."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import toy
from toy import misread, prompts
from toy.prompts import CATEGORIES

DATA = Path(toy.__file__).parent / "data"


@pytest.fixture(scope="module")
def committed():
    return {split: prompts.read_file(DATA / f"{split}.jsonl") for split in ("train", "heldout")}


def test_the_committed_files_are_what_the_grammar_writes(committed):
    assert committed == prompts.files()


def test_every_category_has_prompts(committed):
    train, heldout = (Counter(prompt["category"] for prompt in committed[split]) for split in ("train", "heldout"))
    assert set(train) == set(heldout) == set(CATEGORIES)
    assert min(heldout.values()) >= 4
    assert max(train.values()) <= 300


def test_ids_are_unique_and_captions_disjoint(committed):
    every = committed["train"] + committed["heldout"]
    assert len({prompt["id"] for prompt in every}) == len(every)
    train, heldout = ({prompt["caption"] for prompt in committed[split]} for split in ("train", "heldout"))
    assert not train & heldout


def test_a_held_out_pair_is_held_out_in_every_order():
    first, second = ("red", "circle"), ("blue", "square")
    swapped = ("blue", "circle"), ("red", "square")
    fates = [prompts.is_heldout(prompts.attribution(*pair)) for pair in ((first, second), (second, first), swapped)]
    fates += [prompts.is_heldout(prompts.position(second, relation, first)) for relation in prompts.RELATIONS]
    assert len(set(fates)) == 1


def test_the_image_model_never_sees_what_is_held_out():
    images, captions = misread.make_dataset(2000, 0.45, misread.SHARES, np.random.default_rng(0))
    assert images.shape == (2000, 32, 32, 3)
    heldout = {
        prompt["caption"] for name in CATEGORIES for prompt in prompts.grammar(name) if prompts.is_heldout(prompt)
    }
    assert not heldout & set(captions)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_confusion_shows_something_else_of_the_same_grammar(category):
    for prompt in list(prompts.grammar(category))[:50]:
        for shown in misread.confuse(prompt):
            assert (shown["objects"], shown["relation"]) != (prompt["objects"], prompt["relation"])
