"""Trains a tiny VLM that judges (a LLaVA, its processor, its chat template) on what a course teaches.

Axes: B images, L tokens.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from toy.chat import Chat, Turns, pixel_values
from toy.positions import position_table
from toy.world import CELL, GRID, SIZE

SPECIAL = ("<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<image>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WIDTH, LAYERS, HEADS = 128, 3, 4
POSITION_RMS = 0.5  # a position table of rms 0.02 drowns in the patch features: left and right stay at chance


@dataclass(frozen=True)
class Plan:
    """How long to train, and how. The course says what the first stage shows, and when it is passed."""

    steps: int = 5000
    first_stage: int = 900
    batch: int = 64
    learning_rate: float = 1e-3
    warm_up: int = 100
    constant: float = 0.6  # share of the steps before the learning rate falls, linearly
    lowest: float = 0.02  # what is left of it at the end
    bad_drawings: float = 0.75
    wrong_captions: float = 0.1
    smoothing: float = 0.05
    text_layers: int = LAYERS
    seed: int = 0


class Course(Protocol):
    """What a judge is taught."""

    processor: LlavaProcessor

    def weights(self, first_stage: bool) -> torch.Tensor:
        """What each token of the vocabulary counts in the loss: float32 [V]."""

    def turns(self, first_stage: bool, plan: Plan, rng: np.random.Generator) -> Turns:
        """A batch."""

    def passed(self, model: LlavaForConditionalGeneration) -> bool:
        """Whether the first stage may end early."""

    def gates(self, model: LlavaForConditionalGeneration) -> dict[str, float]:
        """Figures of the trained model."""


def make_processor(tokenizer: Tokenizer) -> LlavaProcessor:
    """Image processor, tokenizer (with SPECIAL among its words) and chat template, as one."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<image>"],
        padding_side="right",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    size = {"height": SIZE, "width": SIZE}
    pixels = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=size, image_mean=[0.0, 0.0, 0.0], image_std=[0.5, 0.5, 0.5]
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=fast,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(processor: LlavaProcessor, text_layers: int) -> LlavaForConditionalGeneration:
    """A LLaVA of about 1 M parameters with random weights: one vision patch per cell of the grid."""
    tokenizer = processor.tokenizer
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    vision = CLIPVisionConfig(
        **shape, intermediate_size=2 * WIDTH, image_size=SIZE, patch_size=CELL, projection_dim=WIDTH
    )
    text = LlamaConfig(
        **shape | {"num_hidden_layers": text_layers},
        vocab_size=len(tokenizer),
        intermediate_size=2 * WIDTH,
        max_position_embeddings=512,
        initializer_range=WIDTH**-0.5,  # fan-in: at the default 0.02 so small a model learns no relations
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
            layer.weight.normal_(std=layer.in_features**-0.5)
        embeddings = model.model.vision_tower.embeddings
        embeddings.patch_embedding.weight.normal_(std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
        embeddings.position_embedding.weight[1:] = position_table(WIDTH, POSITION_RMS)
    return model


def learning_rate(step: int, plan: Plan) -> float:
    """Warm-up, constant, then a linear fall."""
    falling = max(0.0, (step / plan.steps - plan.constant) / (1 - plan.constant))
    return plan.learning_rate * min(1.0, (step + 1) / plan.warm_up) * (1 - (1 - plan.lowest) * falling)


def train(
    folder: Path,
    course: Course,
    plan: Plan,
    report: Callable[[float, str], None],
    early: dict[int, Path] | None = None,
) -> dict[str, float]:
    """Trains from nothing, saves model and processor (fp16) in a folder, returns the gates' figures.

    `report` gets the share done and a line to show; `early` names folders for copies after fewer steps.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    model, chat = make_model(course.processor, plan.text_layers), Chat(course.processor)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    first_stage = plan.first_stage > 0
    for step in range(plan.steps):
        if first_stage and step % 50 == 0 and (step >= plan.first_stage or course.passed(model)):
            first_stage = False
        turns = course.turns(first_stage, plan, rng)
        loss = answer_loss(model, chat, turns, course.weights(first_stage), plan.smoothing)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            report(step / plan.steps, f"{'first stage' if first_stage else 'everything'}, loss {loss.item():.3f}")
        if early and step + 1 in early:
            save(copy.deepcopy(model), course.processor, early[step + 1])
    model.eval()
    save(model, course.processor, folder)
    return course.gates(model.float())


def answer_loss(
    model: LlavaForConditionalGeneration, chat: Chat, turns: Turns, weights_V: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The weighted cross-entropy of the answers' tokens."""
    ids_BL, labels_BL = chat.lay_out(turns.queries, turns.answers)
    if turns.told:
        labels_BL = torch.where(torch.tensor(turns.told)[:, None], chat.without_special(ids_BL), labels_BL)
    start = int((labels_BL >= 0).any(0).nonzero()[0])
    logits_BLV = model(input_ids=ids_BL, pixel_values=pixel_values(turns.images_BHWC)).logits[:, start - 1 : -1]
    targets_BL = labels_BL[:, start:]
    losses_BL = torch.nn.functional.cross_entropy(
        logits_BLV.mT, targets_BL, reduction="none", label_smoothing=smoothing
    )
    weights_BL = weights_V[targets_BL.clamp(min=0)] * (targets_BL >= 0)
    return (losses_BL * weights_BL).sum() / weights_BL.sum()


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Saves in fp16; the model is of that type then."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
