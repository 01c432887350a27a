"""Trains the tiny VLM that judges (a LLaVA, its processor, its chat template) on captions of clean and bad drawings.

Axes: B images, L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from toy import captions
from toy.positions import position_table
from toy.world import CELL, GRID, SIZE, degrade, render

QUERY = "Describe this image in detail."
SPECIAL = ("<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<image>")
QUERY_WORDS = ("describe", "this", "image", "in", "detail", "the", "what", "is", "of", "picture", ".", "?", ",")
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
    """How long to train, and how. The first stage shows relations alone, until the flip test passes."""

    steps: int = 5000
    first_stage: int = 900
    batch: int = 64
    learning_rate: float = 1e-3
    warm_up: int = 100
    constant: float = 0.6  # share of the steps before the learning rate falls, linearly, to a fiftieth
    bad_drawings: float = 0.75
    wrong_captions: float = 0.1
    smoothing: float = 0.05
    relation_weight: float = 2.0  # of relation words in the loss; 5 in the first stage
    seed: int = 0


def make_processor() -> LlavaProcessor:
    """Image processor, word-level tokenizer of the grammar and chat template, as one."""
    words = dict.fromkeys((*SPECIAL, *QUERY_WORDS, *captions.WORDS))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
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


def make_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """A LLaVA of about 1 M parameters with random weights: one vision patch per cell of the grid."""
    tokenizer = processor.tokenizer
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    vision = CLIPVisionConfig(
        **shape, intermediate_size=2 * WIDTH, image_size=SIZE, patch_size=CELL, projection_dim=WIDTH
    )
    text = LlamaConfig(
        **shape,
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


class Chat:
    """Lays out (image, query, caption) as tokens, as a scorer does: chat to the assistant's turn, then the caption."""

    def __init__(self, processor: LlavaProcessor, query: str = QUERY):
        content = [{"type": "image"}, {"type": "text", "text": query}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        text = text.replace(processor.image_token, processor.image_token * GRID * GRID)
        self.processor = processor
        self.opening = processor.tokenizer(text, add_special_tokens=False).input_ids

    def lay_out(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels, int64 [B, L]; labels are -100 except on the captions and their end tokens."""
        tokenizer = self.processor.tokenizer
        answers = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts, add_special_tokens=False).input_ids]
        length = len(self.opening) + max(map(len, answers))
        ids_BL = torch.full((len(texts), length), tokenizer.pad_token_id)
        labels_BL = torch.full((len(texts), length), -100)
        ids_BL[:, : len(self.opening)] = torch.tensor(self.opening)
        for row, answer in enumerate(answers):
            span = slice(len(self.opening), len(self.opening) + len(answer))
            ids_BL[row, span] = labels_BL[row, span] = torch.tensor(answer)
        return ids_BL, labels_BL

    def log_probs(
        self, model: LlavaForConditionalGeneration, images_BHWC: np.ndarray, texts: list[str]
    ) -> torch.Tensor:
        """The mean log-probability of each caption's tokens, without the end token: float32 [B]."""
        ids_BL, labels_BL = self.lay_out(texts)
        labels_BL[labels_BL == self.processor.tokenizer.eos_token_id] = -100
        with torch.no_grad():
            logits_BLV = model(input_ids=ids_BL, pixel_values=pixel_values(images_BHWC)).logits
        losses_BL = torch.nn.functional.cross_entropy(
            logits_BLV[:, :-1].mT, labels_BL[:, 1:], reduction="none", ignore_index=-100
        )
        return -losses_BL.sum(1) / (labels_BL[:, 1:] >= 0).sum(1)


def pixel_values(images_BHWC: np.ndarray) -> torch.Tensor:
    """What the processor makes of uint8 images of the model's own size: float32 [B, 3, H, W]."""
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float() / 127.5


def draw_batch(sample: Callable, plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [B, H, W, 3] with captions; `sample` draws (scene, caption)."""
    images, texts = [], []
    for _ in range(plan.batch):
        scene, caption = sample(rng)
        images.append(degrade(scene, rng) if rng.random() < plan.bad_drawings else render(scene, rng))
        texts.append(captions.one_word_wrong(caption, rng) if rng.random() < plan.wrong_captions else caption)
    return np.stack(images), texts


def learning_rate(step: int, plan: Plan) -> float:
    """Warm-up, constant, then a linear fall to a fiftieth."""
    falling = max(0.0, (step / plan.steps - plan.constant) / (1 - plan.constant))
    return plan.learning_rate * min(1.0, (step + 1) / plan.warm_up) * (1 - 0.98 * falling)


def train(folder: Path, plan: Plan, report: Callable[[float, str], None]) -> dict[str, float]:
    """Trains from nothing, saves model and processor (fp16) in a folder, returns the gates' figures.

    `report` is told the share done and a line to show.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    processor = make_processor()
    model, chat = make_model(processor), Chat(processor)
    relation_ids = processor.tokenizer.convert_tokens_to_ids(list(captions.RELATION_WORDS))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.99))
    first_stage = plan.first_stage > 0
    for step in range(plan.steps):
        if first_stage and step % 50 == 0 and (step >= plan.first_stage or flips(model, chat, 200) >= 0.97):
            first_stage = False
        sample = captions.sample_relation if first_stage else captions.sample
        images_BHWC, texts = draw_batch(sample, plan, rng)
        ids_BL, labels_BL = chat.lay_out(texts)
        logits_BLV = model(input_ids=ids_BL, pixel_values=pixel_values(images_BHWC)).logits[
            :, len(chat.opening) - 1 : -1
        ]
        targets_BL = labels_BL[:, len(chat.opening) :]
        losses_BL = torch.nn.functional.cross_entropy(
            logits_BLV.mT, targets_BL, reduction="none", label_smoothing=plan.smoothing
        )
        weight = 5.0 if first_stage else plan.relation_weight
        weights_BL = torch.where(torch.isin(targets_BL, torch.tensor(relation_ids)), weight, 1.0) * (targets_BL >= 0)
        loss = (losses_BL * weights_BL).sum() / weights_BL.sum()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            report(step / plan.steps, f"{'relations' if first_stage else 'all captions'}, loss {loss.item():.3f}")
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    return gates(model.float(), chat)


def flips(model: LlavaForConditionalGeneration, chat: Chat, number: int) -> float:
    """The lowest share, over the four directions, of images whose true relation is likelier than the opposite one."""
    scores = [prefers_truth(model, chat, cases) for cases in captions.flip_cases(number).values()]
    return min(scores)


def gates(model: LlavaForConditionalGeneration, chat: Chat, number: int = 200) -> dict[str, float]:
    """How often the truth is likelier than a hard negative, by direction and by category, on clean and bad drawings."""
    cases = captions.flip_cases(number) | captions.hard_cases(number)
    return {name: prefers_truth(model, chat, some) for name, some in cases.items()}


def prefers_truth(model: LlavaForConditionalGeneration, chat: Chat, cases: list[tuple[np.ndarray, str, str]]) -> float:
    """The share of (image, true caption, false caption) in which the true caption's mean log-probability is higher."""
    images_BHWC = np.stack([image for image, _, _ in cases])
    true_B = chat.log_probs(model, images_BHWC, [caption for _, caption, _ in cases])
    false_B = chat.log_probs(model, images_BHWC, [caption for _, _, caption in cases])
    return (true_B > false_B).float().mean().item()
