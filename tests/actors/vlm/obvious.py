"""The obvious way to a likelihood: the model's own processor writes the whole conversation, one image at a time, and its own loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Idefics3Processor,
    LlavaProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from actors.messages import Turn


def own_processor(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> ProcessorMixin:
    """The processor of the model's family; those that also read videos get no video processor, which would need torchvision."""
    if kind in ("llava", "idefics3"):
        return {"llava": LlavaProcessor, "idefics3": Idefics3Processor}[kind].from_pretrained(folder)
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    monkeypatch.setattr(processing_smolvlm, "num2words", str)
    parts: dict[str, Any] = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "video_processor": None,
    }
    parts["chat_template"] = parts["tokenizer"].chat_template
    if kind == "smolvlm":
        return processing_smolvlm.SmolVLMProcessor(**parts, image_seq_len=4)
    return (Qwen2_5_VLProcessor if kind == "qwen2_5_vl" else Qwen3VLProcessor)(**parts)


def own_inputs(
    processor: ProcessorMixin, image_HWC: np.ndarray | None, query: str, answer: str | None
) -> dict[str, Any]:
    """What the processor makes of a question, and of the answer as an assistant's turn if there is one (with what ends the turn)."""
    images = [] if image_HWC is None else [Image.fromarray(image_HWC)]
    chat = [{"role": "user", "content": [{"type": "image"} for _ in images] + [{"type": "text", "text": query}]}]
    if answer is not None:
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    template = processor.chat_template
    text = processor.tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=answer is None
    )
    bos = processor.tokenizer.bos_token
    return dict(
        processor(
            text=[text],
            images=images or None,
            add_special_tokens=not (bos and text.startswith(bos)),
            return_tensors="pt",
        )
    )


def own_prompt(processor: ProcessorMixin, turns: Sequence[Turn], images: Sequence[np.ndarray]) -> dict[str, Any]:
    """What the processor makes of a chat with several turns and images, up to where the assistant speaks."""
    chat = [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in turn.parts
            ],
        }
        for turn in turns
    ]
    text = processor.tokenizer.apply_chat_template(
        chat, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    shown = [Image.fromarray(images[part]) for turn in turns for part in turn.parts if isinstance(part, int)]
    bos = processor.tokenizer.bos_token
    return dict(
        processor(
            text=[text],
            images=[shown] if shown else None,
            add_special_tokens=not (bos and text.startswith(bos)),
            return_tensors="pt",
        )
    )


def own_mean_log_prob(
    model: PreTrainedModel, processor: ProcessorMixin, image_HWC: np.ndarray | None, query: str, answer: str
) -> tuple[float, list[int]]:
    """Minus the model's own loss with the answer's tokens as labels; and the ids of question and answer."""
    prefix = own_inputs(processor, image_HWC, query, None)["input_ids"][0].tolist()
    inputs = own_inputs(processor, image_HWC, query, answer)
    ids = inputs["input_ids"][0].tolist()
    assert ids[: len(prefix)] == prefix
    eos = processor.tokenizer.eos_token_id
    end = len(prefix) + ids[len(prefix) :].index(eos)
    labels = torch.tensor([[-100] * len(prefix) + ids[len(prefix) : end] + [-100] * (len(ids) - end)])
    with torch.no_grad():
        return -model.eval()(**inputs, labels=labels).loss.item(), ids[:end]
