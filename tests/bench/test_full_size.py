"""Models made with random weights: of the architecture that is named, in their type from the start, and the same each time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from actors.messages import Prompt
from bench.full_size import CAPTION, IMAGE_MODELS, Captions, image_model, make
from bench.full_size_judge import fill, judge, make_vlm, narrow_vlm
from pipelines.preflight.memory.architectures import load

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_model_made_in_bfloat16_is_that_made_in_float32_and_cast(name: str):
    """Tables of positions and frequencies must not be computed in bfloat16."""
    narrow = IMAGE_MODELS[name].narrow
    made = make(name, CPU, torch.bfloat16, narrow)
    cast = make(name, CPU, torch.float32, narrow).to(torch.bfloat16)
    buffers = dict(cast.named_buffers())
    assert {key: buffer.dtype for key, buffer in made.named_buffers()} == {k: b.dtype for k, b in buffers.items()}
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in made.named_buffers())
    for attribute in ("pos_freqs", "neg_freqs"):  # tables of Qwen-Image, which are no buffers
        if hasattr(getattr(made, "pos_embed", None), attribute):
            assert torch.equal(getattr(made.pos_embed, attribute), getattr(cast.pos_embed, attribute))
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("kind", ["qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_a_vlm_keeps_its_frequencies_in_float32(kind: str):
    config = narrow_vlm(load(kind)["config"])
    made, expected = make_vlm(config, CPU, torch.bfloat16), make_vlm(config, CPU, torch.float32)
    buffers = dict(expected.named_buffers())
    assert buffers
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in made.named_buffers())
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}


def test_weights_keep_the_scale_of_what_flows_through_them_and_are_frozen():
    layers = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.LayerNorm(512), torch.nn.Linear(512, 64))
    assert (fill(layers)(torch.randn(256, 512)).std() - 1).abs() < 0.1
    again = fill(torch.nn.Linear(512, 512))
    assert torch.equal(again.weight, layers[0].weight)
    assert not again.weight.requires_grad
    assert not again.training


def describe(changes: dict[str, dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """The known architectures with changed configs, so that the full models of a test are small as well."""
    return lambda name: {**load(name), "config": {**load(name)["config"], **changes[name]}}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_the_full_model_takes_the_place_of_the_narrow_one(name: str, tmp_path, monkeypatch):
    model = IMAGE_MODELS[name]
    count = "n_layers" if name == "z-image" else "num_layers"
    changes = {name: {**model.narrow, count: model.narrow[count] + 1}, model.vae: model.narrow_vae}
    monkeypatch.setattr("bench.full_size.load", describe(changes))
    family = image_model(name, CPU, torch.float32, False, 20, tmp_path)
    assert family.transformer is family.pipeline.transformer
    assert family.transformer.config[count] == model.narrow[count] + 1
    noise = torch.randn(1, *family.latent_shape(64, 64))
    velocity = family.guided_velocity(noise, torch.ones(1) / 2, family.prompted(CAPTION, 3.5))
    assert family.decode(velocity).shape == (1, 64, 64, 3)
    assert velocity.std() > 0.1


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_caption_is_the_same_numbers_each_time_and_others_for_another(name: str):
    captions = Captions({**load(name)["config"], **IMAGE_MODELS[name].narrow}, 20, CPU, torch.float32)
    first, again, other = (captions.encode([caption]).tensors for caption in (CAPTION, CAPTION, "another"))
    assert first["prompt_embeds"].shape[:2] == (1, 20)
    assert torch.equal(first["prompt_embeds"], again["prompt_embeds"])
    assert not torch.equal(first["prompt_embeds"], other["prompt_embeds"])
    both = captions.encode([CAPTION, ""]).tensors["prompt_embeds"]
    assert torch.equal(both[0], first["prompt_embeds"][0])


def test_the_full_vlm_scores_in_the_place_of_the_narrow_one(tmp_path, monkeypatch):
    full = narrow_vlm(load("qwen3-vl-8b")["config"])
    full["text_config"]["num_hidden_layers"] += 1
    monkeypatch.setattr("bench.full_size_judge.load", describe({"qwen3-vl-8b": full}))
    reward = judge("qwen3-vl-8b", CPU, torch.float32, False, tmp_path)
    assert len(reward.vlm.model.model.language_model.layers) == full["text_config"]["num_hidden_layers"]
    assert reward.vlm.lm_head is reward.vlm.model.lm_head.weight
    images_KHWC = np.zeros((1, 64, 64, 3), np.uint8)
    assert reward.score(images_KHWC, Prompt("0", CAPTION)).rewards_K[0] < 0
