"""Tiny CLIP and SigLIP folders with random weights: the layout of the real ones, in no time."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from toy.random_models.vlms import train_bpe

SPECIAL = ("<pad>", "<|startoftext|>", "<|endoftext|>")
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTHS = {"clip": 20, "siglip": 16}  # tokens of a text, at most
PIXELS = 32


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """CLIP's writes a token before a text and one after it; SigLIP's only the second."""
    core = train_bpe(SPECIAL)
    _, first, last = SPECIAL
    template = f"{first} $A {last}" if kind == "clip" else f"$A {last}"
    core.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, core.token_to_id(token)) for token in (first, last)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=SPECIAL[0], bos_token=first, eos_token=last, model_max_length=LENGTHS[kind]
    )


def make_tiny_dual_encoder(path: Path, kind: str = "clip") -> Path:
    """Writes a tiny model of the kind "clip" or "siglip" to `path`, which is returned."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(kind)
    text = {**SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTHS[kind]}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    vision = {**SHAPE, "image_size": PIXELS, "patch_size": 8}
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config={**text, **ids}, vision_config=vision, projection_dim=16))
        size = {"shortest_edge": PIXELS}, {"height": PIXELS, "width": PIXELS}
        processor = CLIPImageProcessorPil(size=size[0], crop_size=size[1])
    else:
        model = SiglipModel(SiglipConfig(text_config={**text, **ids}, vision_config=vision))
        processor = SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # so that images and texts differ
        if kind == "siglip":
            model.logit_scale.fill_(2.0)
            model.logit_bias.fill_(-10.0)
    for part in (model.eval(), tokenizer, processor):
        part.save_pretrained(path)
    return path
