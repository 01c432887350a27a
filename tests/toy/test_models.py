"""The committed models load like any of their class, draw, and judge; a few steps of training run end to end."""

import json
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

import toy
from toy import captions, image_model, misread, prompts
from toy.chat import QUERY, Chat, pixel_values, prefers_truth
from toy.checker import check, read_scene
from toy.make import TRAININGS, make
from toy.world import render

MODELS = Path(toy.__file__).parent / "models"


@pytest.fixture(scope="module")
def pipe():
    return image_model.load(MODELS / "image")


@pytest.fixture(scope="module")
def vlm():
    return LlavaForConditionalGeneration.from_pretrained(MODELS / "judge", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def chat():
    return Chat(AutoProcessor.from_pretrained(MODELS / "judge"))


def test_the_models_are_small_enough_to_commit():
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 20e6


def test_the_pipeline_draws_whole_things(pipe):
    images = image_model.draw(pipe, ["two red crosses"] * 16, guidance_scale=2.0, seed=0)
    assert images.shape == (16, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.mean([read_scene(image) is not None for image in images]) > 0.8


def test_the_base_follows_half_of_its_prompts(pipe):
    """Misaligned on purpose: neither hopeless nor good."""
    asked = [prompt for prompt in prompts.files()["heldout"] if prompt["category"] == "colours"] * 8
    images = image_model.draw(pipe, [prompt["caption"] for prompt in asked], guidance_scale=1.0, seed=0)
    right = [check(image[None], prompt)["accuracy"][0] for image, prompt in zip(images, asked, strict=True)]
    assert 0.3 < np.mean(right) < 0.85


def test_the_autoencoder_keeps_a_drawing(pipe):
    rng = np.random.default_rng(0)
    every = list(prompts.grammar("attribution"))
    asked = [every[index] for index in rng.integers(len(every), size=40)]
    images = np.stack([render(prompts.scene_for(prompt, rng), rng) for prompt in asked])
    latents = image_model.encode(pipe.vae, images)
    assert latents.shape == (40, 12, 4, 4)
    assert 0.7 < latents.std() < 1.4
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    again = pipe.image_processor.postprocess(decoded, output_type="np")
    kept = [
        check((image * 255).round().astype(np.uint8)[None], prompt) for image, prompt in zip(again, asked, strict=True)
    ]
    assert np.mean([of_image["accuracy"] for of_image in kept]) > 0.95


def test_every_word_of_the_grammar_is_one_token(pipe):
    for split in prompts.files().values():
        for prompt in split:
            ids = pipe.tokenizer(prompt["caption"]).input_ids
            assert len(ids) == len(prompt["caption"].split()) + 2 <= misread.TEXT_LENGTH


def test_the_pooled_token_is_the_end_token(pipe):
    assert pipe.text_encoder.config.eos_token_id == pipe.tokenizer.eos_token_id != 2


def test_the_table_of_positions_is_not_cropped(pipe):
    assert pipe.transformer.config.pos_embed_max_size == 4


def test_the_judge_lays_out_what_its_processor_gives(chat):
    image = render(())
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUERY}]}]
    text = chat.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = chat.processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt")
    assert inputs.input_ids[0].tolist() == chat.opening()
    assert torch.allclose(inputs.pixel_values, pixel_values(image[None]))


def test_the_judge_loads_through_the_auto_classes():
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "judge")
    AutoImageProcessor.from_pretrained(MODELS / "judge")
    assert tokenizer.chat_template
    known = tokenizer(f"{QUERY} three red crosses left of a white circle").input_ids
    assert tokenizer.unk_token_id not in known


def test_the_judge_tells_the_four_directions_apart(vlm, chat):
    for direction, cases in captions.flip_cases(100).items():
        assert prefers_truth(vlm, chat, cases) >= 0.97, direction


def test_the_judge_notices_one_wrong_word(vlm, chat):
    for category, cases in captions.hard_cases(100).items():
        assert prefers_truth(vlm, chat, cases) >= 0.99, category


def test_make_runs_from_nothing_in_processes_of_its_own(tmp_path):
    make(tmp_path, ["data", "judge"], steps=4)
    for name in ("train", "poster_train"):
        assert (tmp_path / "data" / f"{name}.jsonl").exists()
    assert json.loads((tmp_path / "models" / "judge" / "figures.json").read_text())


@pytest.mark.parametrize("name", ["image", "reader", "poster_image"])
def test_each_model_can_be_trained_from_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr("toy.make._one_thread", lambda: None)
    reports = Queue()
    assert TRAININGS[name](tmp_path, 4, reports)
    assert list((tmp_path / name).glob("**/*.safetensors"))
    assert reports.get()[0] == name
