"""Posters: their words, prompts and files, and the checker against rendered truth and against what is wrong by a letter."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import toy
from actors.reward.kinds.text_rendering import TextRenderingOptions
from pipelines.data.prompt_fields import Fields, prompt_of
from toy.posters import prompts
from toy.posters.checker import check, read_texts
from toy.posters.prompts import CATEGORIES
from toy.posters.world import GLYPHS, LETTERS, ROLES, Line, crowded, degrade, render
from toy.prompts import read_file
from toy.world import COLOURS

DATA = Path(toy.__file__).parent / "data"
KEYS = ["main_title", "subtitle", "selling_points", "other_text"]


@pytest.fixture(scope="module")
def committed():
    return {split: read_file(DATA / f"poster_{split}.jsonl") for split in ("train", "heldout")}


def drawn(category, number=100):
    rng = np.random.default_rng(7)
    for _ in range(number):
        prompt = prompts.sample(category, prompts.WORDS["heldout"], rng)
        yield prompt, prompts.poster_for(prompt, rng), rng


def test_the_committed_files_are_what_the_grammar_writes(committed):
    assert committed == prompts.files()


def test_no_word_is_both_trained_and_held_out(committed):
    train, heldout = (
        {word for prompt in committed[split] for word in prompts.texts_of(prompt).values()}
        for split in ("train", "heldout")
    )
    assert len(train) > 400
    assert len(heldout) > 100
    assert not train & heldout


def test_every_category_has_its_prompts_and_ids_are_unique(committed):
    every = committed["train"] + committed["heldout"]
    assert len({prompt["id"] for prompt in every}) == len({prompt["caption"] for prompt in every}) == len(every)
    for split, number in prompts.NUMBERS.items():
        assert Counter(prompt["category"] for prompt in committed[split]) == dict.fromkeys(CATEGORIES, number)


def test_a_label_has_all_four_keys_in_their_order_and_says_what_the_caption_says(committed):
    for prompt in committed["heldout"]:
        label = json.loads(prompt["label"])
        assert list(label) == KEYS == list(ROLES)
        assert prompt["label"] == json.dumps(label, ensure_ascii=False)
        quoted = prompt["caption"].split('"')[1::2]
        assert [word for words in label.values() for word in words] == quoted


def test_the_reward_of_text_reads_the_label_as_it_stands(committed):
    options = TextRenderingOptions(model="a model", field="label")
    for prompt in committed["heldout"]:
        assert options.label_of(prompt_of(prompt, "line 1", Fields())) == prompt["label"]


def test_no_two_letters_are_alike_to_the_checker():
    for first, second in combinations(GLYPHS.values(), 2):
        assert (first & second).sum() / (first | second).sum() < 0.75


@pytest.mark.parametrize("category", CATEGORIES)
def test_rendered_truth_passes(category):
    for prompt, poster, rng in drawn(category):
        figures = check(render(poster, rng)[None], prompt)
        assert figures == {"accuracy": [1.0], "letters": [1.0], "ghost": [0.0]}


@pytest.mark.parametrize("category", CATEGORIES)
def test_one_letter_wrong_fails(category):
    for prompt, poster, rng in drawn(category):
        row, column = rng.integers(len(poster)), rng.integers(3)
        word = list(poster[row].word)
        word[column] = next(letter for letter in LETTERS[rng.integers(4) :] if letter != word[column])
        wrong = (*poster[:row], poster[row]._replace(word="".join(word)), *poster[row + 1 :])
        figures = check(render(wrong, rng)[None], prompt)
        assert figures["accuracy"] == [0.0]
        assert 0.5 < figures["letters"][0] < 1.0


@pytest.mark.parametrize("category", ["title_subtitle", "three_lines"])
def test_words_in_each_others_rows_fail(category):
    for prompt, poster, rng in drawn(category):
        first, second = poster[0], poster[1]
        swapped = (first._replace(word=second.word), second._replace(word=first.word), *poster[2:])
        assert check(render(swapped, rng)[None], prompt)["accuracy"] == [0.0]


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_line_more_or_less_fails(category):
    for prompt, poster, rng in drawn(category, 20):
        free = next(role for role in reversed(ROLES) if role not in prompts.texts_of(prompt))
        longer = (*poster, Line(free, "TOP", "white"))
        images = np.stack([render(longer, rng), render(poster[:-1], rng)])
        assert check(images, prompt)["accuracy"] == [0.0, 0.0]


def test_a_title_of_another_colour_fails_where_the_prompt_names_one():
    for prompt, poster, rng in drawn("colour_title"):
        other = next(colour for colour in COLOURS[rng.integers(3) :] if colour != prompt["title_colour"])
        assert check(render((poster[0]._replace(colour=other),), rng)[None], prompt)["accuracy"] == [0.0]


def test_the_checker_reads_back_the_words():
    for prompt, poster, rng in drawn("three_lines", 20):
        assert read_texts(render(poster, rng)) == prompts.texts_of(prompt)


def test_drawings_are_deterministic():
    poster = (Line("main_title", "SALE", "red"),)
    for draw in (lambda rng: render(poster, rng), lambda rng: degrade(poster, rng), lambda rng: crowded(2, rng)):
        assert np.array_equal(draw(np.random.default_rng(3)), draw(np.random.default_rng(3)))
