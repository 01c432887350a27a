"""The checker against rendered truth, wrong attributes, extra things and ghosts."""

import numpy as np
import pytest

from toy import prompts
from toy.captions import one_word_wrong
from toy.checker import check, read_scene
from toy.prompts import CATEGORIES
from toy.world import Thing, degrade, holds, render

NUMBER = 200


def drawn(category, number=NUMBER):
    rng = np.random.default_rng(7)
    every = list(prompts.grammar(category))
    for _ in range(number):
        prompt = every[rng.integers(len(every))]
        other = every[rng.integers(len(every))]
        yield prompt, other, prompts.scene_for(prompt, rng), rng


@pytest.mark.parametrize("category", CATEGORIES)
def test_rendered_truth_passes_without_ghosts(category):
    checks = [check(render(scene, rng)[None], prompt) for prompt, _, scene, rng in drawn(category)]
    assert np.mean([of_image["accuracy"] for of_image in checks]) > 0.99
    assert not np.any([of_image["ghost"] for of_image in checks])


@pytest.mark.parametrize("category", CATEGORIES)
def test_truth_of_another_prompt_of_the_category_fails(category):
    different = [
        check(render(scene, rng)[None], other)["accuracy"][0]
        for prompt, other, scene, rng in drawn(category)
        if meaning(prompt) != meaning(other)
    ]
    assert len(different) > NUMBER / 2
    assert np.mean(different) < 0.05


def meaning(prompt):
    return sorted(str(named) for named in prompt["objects"]), prompt["relation"]


@pytest.mark.parametrize("category", CATEGORIES)
def test_one_thing_more_fails(category):
    for prompt, _, scene, rng in drawn(category, 50):
        taken = {(thing.row, thing.column) for thing in scene}
        free = [divmod(cell, 4) for cell in range(16) if divmod(cell, 4) not in taken]
        crowded = (*scene, Thing("red", "cross", *free[rng.integers(len(free))]))
        assert check(render(crowded, rng)[None], prompt)["accuracy"] == [0.0]


def test_the_checker_reads_back_the_scene():
    for _, _, scene, rng in drawn("counting", 50):
        assert set(read_scene(render(scene, rng))) == set(scene)


def test_half_drawn_things_are_ghosts():
    image = render((Thing("red", "circle", 0, 0), Thing("white", "square", 2, 2)))
    faint = image.copy()
    faint[16:24, 16:24] //= 2
    prompt = prompts.colours("red", "circle")
    assert check(np.stack([image, faint]), prompt)["ghost"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("first", "relation", "second", "expected"),
    [
        ((0, 0), "left of", (1, 3), True),
        ((0, 3), "left of", (0, 0), False),
        ((0, 0), "left of", (2, 2), False),  # on the diagonal no axis dominates
        ((3, 1), "below", (0, 0), True),
        ((0, 1), "above", (1, 1), True),
        ((2, 3), "right of", (2, 2), True),
    ],
)
def test_a_relation_needs_its_axis_to_dominate(first, relation, second, expected):
    assert holds(Thing("red", "circle", *first), relation, Thing("blue", "square", *second)) is expected


def test_drawings_are_deterministic():
    scene = (Thing("cyan", "triangle", 1, 2),)
    for draw in (render, degrade):
        assert np.array_equal(draw(scene, np.random.default_rng(3)), draw(scene, np.random.default_rng(3)))


def test_a_wrong_word_makes_another_caption():
    rng = np.random.default_rng(0)
    for prompt, *_ in drawn("position", 50):
        wrong = one_word_wrong(prompt["caption"], rng)
        differing = [a != b for a, b in zip(prompt["caption"].split(), wrong.split(), strict=True)]
        assert sum(differing) == 1
