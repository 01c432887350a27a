"""Judges of known architectures with random weights, as bench/full_size.py makes image models. It needs no diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2VLImageProcessorPil

from actors.reward.kinds.promptecho import PromptEcho, PromptEchoOptions
from actors.vlm.qwen_tower import quicken
from pipelines.preflight.memory.architectures import load
from toy.random_models.vlms import QWEN2_5_TEMPLATE, QWEN_NAMES, QWEN_TEMPLATE, make_qwen_tokenizer

VLMS = ("qwen2.5-vl-7b", "qwen3-vl-8b", "qwen3-vl-32b")
NARROW_QWEN: dict[str, dict[str, Any]] = {
    "text_config": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "num_key_value_heads": 1, "vocab_size": 2048, "bos_token_id": None, "eos_token_id": 2},
    "vision_config": {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 256},
}  # fmt: skip


def judge(name: str, device: torch.device, dtype: torch.dtype, tiny: bool, folder: Path) -> PromptEcho:
    """PromptEcho with a Qwen-VL of random weights; the narrow one is written to `folder`.

    Its tokenizer is a small one with the family's special tokens, whose ids take the place of the config's; the size of the
    vocabulary stays.
    """
    tokenizer = make_qwen_tokenizer()
    ids = {f"{key}_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for key, token in QWEN_NAMES.items()}
    config = {**load(name)["config"], **ids}
    kind = config["model_type"]
    tokenizer.chat_template = {"qwen2_5_vl": QWEN2_5_TEMPLATE, "qwen3_vl": QWEN_TEMPLATE}[kind]
    tokenizer.save_pretrained(folder)
    vision = config["vision_config"]
    patch, merge = vision["patch_size"], vision["spatial_merge_size"]
    size = {"shortest_edge": 4 * (patch * merge) ** 2, "longest_edge": 16384 * (patch * merge) ** 2}
    Qwen2VLImageProcessorPil(patch_size=patch, merge_size=merge, size=size).save_pretrained(folder)
    narrow: Any = make_vlm(narrow_vlm(config), torch.device("cpu"), torch.float32)
    narrow.save_pretrained(folder)
    keys = {"model": str(folder), "device": device.type, "dtype": str(dtype).removeprefix("torch.")}
    reward = PromptEchoOptions.model_validate(keys).load()
    if not tiny:
        vlm: Any = reward.vlm
        vlm.model = make_vlm(config, device, dtype)
        vlm.lm_head = vlm.model.get_output_embeddings().weight
        quicken(vlm.model.model.visual)
    return reward


def narrow_vlm(config: dict[str, Any]) -> dict[str, Any]:
    """A small config of the same make, with a vocabulary as small as the tokenizer's."""
    text = {**config["text_config"], **NARROW_QWEN["text_config"]}
    vision = {**config["vision_config"], **NARROW_QWEN["vision_config"]}
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [1]
    if "deepstack_visual_indexes" in vision:
        vision["deepstack_visual_indexes"] = [0]
    return {**config, "text_config": text, "vision_config": vision}


def make_vlm(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A vision-language model of this config, frozen."""
    with device:
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(**config), dtype=dtype, attn_implementation="sdpa"
        )
    return fill(model)


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Random weights that keep the scale of what flows through them, the same each time on one kind of device; frozen."""
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.ndim > 1:
            generator = torch.Generator(parameter.device).manual_seed(seed)
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)
