"""A worker that draws with a base and with LoRAs by turns: each draws what it draws alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from actors.diffusion.lora import A, B
from actors.diffusion.options import ImageModelOptions
from actors.messages import DrawPart, DrawRequest, DrawTrial
from actors.mistake import Mistake
from actors.process import Process
from actors.rollout.actor import ModelsActor
from actors.rollout.options import GeneratorSettings, LoraFiles

PART = DrawPart(0, 0, "a red circle", (11, 12), ())
REQUEST = DrawRequest("evaluate", 0, (PART,), 0, "", 4, 2.0, 32, 32, keep_latents=False)
FILE = "pytorch_lora_weights.safetensors"


def lora(seed: int, layer: str = "transformer_blocks.0.attn.to_q", width: int = 32) -> LoraFiles:
    """A random LoRA of one layer, as diffusers writes it."""
    random = np.random.default_rng(seed)
    name = f"transformer.{layer}"
    tensors = {name + A: random.normal(size=(2, width)), name + B: random.normal(size=(width, 2))}
    content = save({name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    return LoraFiles(f"models.m{seed}", FILE, {FILE: content})


def make_actor(model: str, loras: dict[str, LoraFiles], *trials: DrawTrial) -> ModelsActor:
    settings = GeneratorSettings(model, None, ImageModelOptions(device="cpu", dtype="float32"), 2)
    return ModelsActor(Process(1), settings, loras, trials)


def draw(actor: ModelsActor, sha256: str) -> bytes:
    (report,), images, latents = actor.draw(replace(REQUEST, adapter_sha256=sha256))
    assert latents is None
    assert bool(report.adapter_sha256) == bool(sha256)
    return images.tobytes()


def width_of(model: str) -> int:
    return make_actor(model, {}).generator.merger.weights["transformer_blocks.0.attn.to_q"].shape[0]


def test_the_base_and_each_lora_draw_as_they_do_alone_in_whatever_order(tiny_sd3: str) -> None:
    width = width_of(tiny_sd3)
    loras = {"first": lora(1, width=width), "second": lora(2, "transformer_blocks.0.attn.to_v", width)}
    actor = make_actor(tiny_sd3, loras)
    alone = {name: draw(make_actor(tiny_sd3, {name: loras[name]}), name) for name in loras}
    alone[""] = draw(make_actor(tiny_sd3, {}), "")
    assert len(set(alone.values())) == 3
    for name in ("", "first", "second", "", "second", "first", ""):
        assert draw(actor, name) == alone[name]


def test_a_lora_of_another_model_and_a_size_that_is_not_drawn_are_told_at_the_start(tiny_sd3: str) -> None:
    with pytest.raises(Mistake, match=r"models\.m3: .*made for another model"):
        make_actor(tiny_sd3, {"x": lora(3, "blocks.9.to_q")})
    with pytest.raises(Mistake, match=r"models\.base = .*pixels|33"):
        make_actor(tiny_sd3, {}, DrawTrial("base", 33, 32, (4,), 1.0, "models.base"))
