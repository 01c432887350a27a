"""The posters' committed models load like any of their class, draw, and read; what they are taught is true."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import toy
from toy import image_model
from toy.posters import lessons, measure, misread, prompts, reader
from toy.posters.checker import check, read_texts
from toy.posters.prompts import CATEGORIES
from toy.posters.world import render
from toy.prompts import read_file

TOY = Path(toy.__file__).parent
READERS = ("reader", "reader_early")


@pytest.fixture(scope="module")
def pipe():
    return image_model.load(TOY / "models" / "poster_image")


@pytest.fixture(scope="module")
def heldout():
    return read_file(TOY / "data" / "poster_heldout.jsonl")


def test_the_pipeline_draws_letters_that_can_be_read(pipe):
    images = image_model.draw(pipe, ['a poster with the title "SALE"'] * 16, guidance_scale=1.0, seed=0)
    texts = [read_texts(image) for image in images]
    assert np.mean(["?" not in "".join(text.values()) for text in texts]) > 0.8


def test_the_base_follows_some_of_its_prompts(pipe, heldout):
    """Misaligned on purpose: neither hopeless nor good."""
    asked = [prompt for prompt in heldout if prompt["category"] == "title"]
    images = image_model.draw(pipe, [prompt["caption"] for prompt in asked], guidance_scale=1.0, seed=0)
    right = [check(image[None], prompt)["accuracy"][0] for image, prompt in zip(images, asked, strict=True)]
    assert 0.25 < np.mean(right) < 0.85


def test_the_autoencoder_keeps_a_poster(pipe):
    rng = np.random.default_rng(0)
    asked = [prompts.sample(category, prompts.WORDS["heldout"], rng) for category in CATEGORIES for _ in range(8)]
    images = np.stack([render(prompts.poster_for(prompt, rng), rng) for prompt in asked])
    latents = image_model.encode(pipe.vae, images)
    assert latents.shape == (32, misread.COMPONENTS, 4, 4)
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    again = (pipe.image_processor.postprocess(decoded, output_type="np") * 255).round().astype(np.uint8)
    kept = [check(image[None], prompt)["accuracy"][0] for image, prompt in zip(again, asked, strict=True)]
    assert np.mean(kept) > 0.95


@pytest.mark.parametrize("name", READERS)
def test_a_reader_spells_every_caption_and_label_and_knows_its_words(name, heldout):
    tokenizer = AutoTokenizer.from_pretrained(TOY / "models" / name)
    for prompt in heldout:
        for text in (prompt["caption"], prompt["label"]):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_the_reader_reads():
    model, chat = measure.load(TOY / "models" / "reader")
    shares = measure.read_exactly(model, chat, 25)
    assert min(shares.values()) > 0.7
    assert np.mean(list(shares.values())) > 0.85


def test_the_reader_finds_the_truth_likelier_than_what_is_wrong_by_a_letter():
    model, chat = measure.load(TOY / "models" / "reader")
    rng = np.random.default_rng(0)
    for category in CATEGORIES:
        prompt = prompts.sample(category, prompts.WORDS["heldout"], rng)
        image = render(prompts.poster_for(prompt, rng))[None]
        true, false = (measure.judge(model, chat, image, some) for some in (prompt, lessons.misspelt(prompt, rng)))
        assert true["label"][0] > false["label"][0]
        assert true["caption"][0] > false["caption"][0]


def test_the_image_model_never_sees_a_held_out_word():
    images, captions = misread.make_dataset(300, 0.45, CATEGORIES, np.random.default_rng(0))
    shown = {word for image in images for word in read_texts(image).values()}
    said = {word for caption in captions for word in caption.split('"')[1::2]}
    assert not any(prompts.is_heldout(word) for word in shown | said)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_confusion_shows_something_else(category):
    rng = np.random.default_rng(0)
    for _ in range(50):
        prompt = prompts.sample(category, prompts.WORDS["train"], rng)
        shown = misread.confuse(prompt)
        assert (shown["label"], shown["title_colour"]) != (prompt["label"], prompt["title_colour"])


def test_grades_and_answers_are_true():
    rng = np.random.default_rng(0)
    for _ in range(200):
        prompt = prompts.sample(CATEGORIES[rng.integers(len(CATEGORIES))], lessons.EVERY_WORD, rng)
        shown = lessons.wrong(prompt, rng)
        image = render(prompts.poster_for(shown, rng), rng)[None]
        assert lessons.grade(prompt, prompt) == lessons.HIGHEST
        assert lessons.grade(prompt, shown) < lessons.HIGHEST
        assert check(image, prompt)["accuracy"] == [0.0]
        assert check(image, shown)["accuracy"] == [1.0]


def test_a_query_is_learned_as_text_only_where_it_is_true():
    course, rng = reader.Reading(), np.random.default_rng(0)
    turns = course.turns(False, reader.PLAN, rng)
    asked = [answer in ("Yes", lessons.scored(lessons.HIGHEST)) for answer in turns.answers]
    assert turns.told == asked
    ids_BL, _ = course.chat.lay_out(turns.queries, turns.answers)
    row = asked.index(True)
    learned = [token for token in course.chat.without_special(ids_BL)[row].tolist() if token >= 0]
    assert course.processor.tokenizer.decode(learned) == f"{turns.queries[row]}<|end|>{turns.answers[row]}<|end|>"


def test_pairs_are_compared_within_a_prompt():
    scores = np.array([[0.1, 0.3, 0.2], [5.0, 4.0, 4.0]])
    right = np.array([[False, True, True], [False, True, False]])
    assert measure.auc_within(scores, right) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert measure.auc_within(np.where(scores > 4, np.nan, scores), right) == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)


def test_what_is_asked_is_what_the_committed_reader_was_asked():
    assert len(reader.Reading().processor.tokenizer) == len(AutoTokenizer.from_pretrained(TOY / "models" / "reader"))
