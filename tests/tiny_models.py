"""Tiny vision-language models with random weights, made of real transformers classes and saved as a folder, tokenizer and all."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = (
    "a an and the red green blue yellow circle square triangle one two three left right of above below on with photo is in"
    " Describe this image detail . ,"
).split()
SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<image>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: each of WORDS is one token, with a space before it or without, and any other text falls back to bytes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([text for word in WORDS for text in (word, f" {word}")] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
        model_max_length=4096,
    )


def make_tiny_llava(
    path: Path,
    vocab_size: int | None = None,
    width: int = 32,
    layers: int = 2,
    heads: int = 2,
    image_size: int = 16,
    patch_size: int = 8,
    seed: int = 0,
) -> Path:
    """Writes a LLaVA of (image_size / patch_size)² image tokens, its processor and chat template; `vocab_size` is the model's.

    Black pixels are 0 for the model (image mean 0). Its weights are larger than usual, so that likelihoods differ visibly.
    """
    tokenizer = make_tokenizer()
    shape = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=image_size, patch_size=patch_size, projection_dim=width),
        text_config=LlamaConfig(
            **shape,
            vocab_size=vocab_size or len(tokenizer),
            max_position_embeddings=4096,
            initializer_range=width**-0.5,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
            linear.weight.normal_(std=width**-0.5)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
            image_mean=[0.0, 0.0, 0.0],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
