"""A tiny VLM that writes one text, whatever it is shown: for tests of what is made of an answer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from toy.random_models.vlms import make_tiny_llava

SURE = 30.0  # of each next token


def make_parrot(path: Path, text: str) -> Path:
    """Writes a LLaVA whose next token follows from the last one alone. No token may come twice in the text. Raises ValueError."""
    make_tiny_llava(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": []}], tokenize=False, add_generation_prompt=True)
    last_asked = tokenizer(asked, add_special_tokens=False).input_ids[-1]
    chain = [last_asked, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    if len(set(chain)) < len(chain):
        raise ValueError(f"{text!r} has a token twice: the parrot would not know how to go on")
    model = LlavaForConditionalGeneration.from_pretrained(path)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        directions = normalize(model.get_input_embeddings().weight, dim=1)
        model.lm_head.weight.zero_()
        for last, following in pairwise(chain):
            model.lm_head.weight[following] = SURE * directions[last]
    model.save_pretrained(path)
    return path
