"""Tiny vision-language models with random weights, made of real transformers classes and saved as a folder, tokenizer and all."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    SmolVLMImageProcessorPil,
)

WORDS = (
    "a an and the red green blue yellow circle square triangle one two three left right of above below on with photo is in"
    " Describe this image detail . ,"
).split()
SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<image>")
QWEN_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|>"
    " <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
QWEN_NAMES = {"image_token": "image_pad", "video_token": "video_pad", "vision_start_token": "vision_start",
              "vision_end_token": "vision_end"}  # fmt: skip
FRAMES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
IDEFICS3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>",
                    "<global-img>", *FRAMES)  # fmt: skip
SMOLVLM_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>",
                   "<global-img>", *FRAMES)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = CHAT_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
QWEN2_5_TEMPLATE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + QWEN_TEMPLATE
IDEFICS3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'][0]['type'] == 'text' %} {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def train_bpe(special: tuple[str, ...] | list[str]) -> Tokenizer:
    """Byte-level BPE: each of WORDS is one token, with a space before it or without, and any other text falls back to bytes."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([text for word in WORDS for text in (word, f" {word}")] * 4, trainer)
    return core


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny LLaVA."""
    return PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(SPECIAL),
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
        model_max_length=4096,
    )


def make_qwen_tokenizer() -> Qwen2Tokenizer:
    """The tiny Qwen-VLs' own class, whose text is brought to NFC; `<tool_call>` is a word that it was given, not a special token."""
    bpe = json.loads(train_bpe(QWEN_SPECIAL).to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        eos_token="<|im_end|>",
        additional_special_tokens=[token for token in QWEN_SPECIAL[1:] if token != "<|im_end|>"],
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def make_idefics3_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Idefics3's adds its first token to every text, as Llama 3's does; SmolVLM's adds none."""
    special = {"idefics3": IDEFICS3_SPECIAL, "smolvlm": SMOLVLM_SPECIAL}[kind]
    core = train_bpe(special)
    if kind == "idefics3":
        core.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], core.token_to_id(special[0]))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin_of_text|>" if kind == "idefics3" else "<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token=special[0],
        additional_special_tokens=["<fake_token_around_image>", "<image>", "<end_of_utterance>"],
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


def make_tiny_qwen_vl(path: Path, kind: str, tied: bool = False, seed: int = 0) -> Path:
    """Writes a Qwen-VL whose token covers 8 x 8 px, for images of 8 x 8 to 32 x 32 px, with its image processor.

    `qwen3_vl_moe` has four experts. `tied`: the head is the input embedding, as in the small ones. Windows of the Qwen2.5-VL's tower
    are 16 px wide.
    """
    tokenizer = make_qwen_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in QWEN_NAMES.values()}
    vision: dict[str, Any] = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
        "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
    }  # fmt: skip
    vision |= {
        "qwen2_5_vl": {"window_size": 16, "fullatt_block_indexes": [1]},
        "qwen3_vl": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        "qwen3_vl_moe": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    }[kind]
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096, "initializer_range": 32**-0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if kind == "qwen3_vl_moe":
        text |= {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    config = AutoConfig.for_model(
        kind,
        vision_config=vision,
        text_config=text,
        tie_word_embeddings=tied,
        **{f"{key}_id": ids[name] for key, name in QWEN_NAMES.items()},
    )
    save_model(config, path, seed)
    tokenizer.chat_template = QWEN2_5_TEMPLATE if kind == "qwen2_5_vl" else QWEN_TEMPLATE
    tokenizer.save_pretrained(path)
    size = {"shortest_edge": 8**2, "longest_edge": 32**2}
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=size).save_pretrained(path)
    return path


def make_tiny_idefics3(path: Path, kind: str, seed: int = 0) -> Path:
    """Writes an Idefics3 or a SmolVLM of frames of 16 x 16 px and 4 tokens, two frames on the longer edge, with its processors."""
    tokenizer = make_idefics3_tokenizer(kind)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind,
        vision_config={**shape, "image_size": 16, "patch_size": 4, "initializer_range": 0.2},
        text_config={
            **shape,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4096,
            "initializer_range": 32**-0.5,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    save_model(config, path, seed)
    options = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    if kind == "idefics3":
        processor = Idefics3Processor(
            Idefics3ImageProcessorPil(**options), tokenizer, image_seq_len=4, chat_template=IDEFICS3_TEMPLATE
        )
        processor.save_pretrained(path)
    else:  # its processor needs packages for videos
        tokenizer.chat_template = IDEFICS3_TEMPLATE
        tokenizer.save_pretrained(path)
        SmolVLMImageProcessorPil(**options).save_pretrained(path)
    return path


def save_model(config: AutoConfig, path: Path, seed: int) -> None:
    """Writes a model of random weights."""
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(path)


TINY_VLMS: dict[str, Callable[[Path], Path]] = {
    "llava": make_tiny_llava,
    "qwen2_5_vl": partial(make_tiny_qwen_vl, kind="qwen2_5_vl"),
    "qwen2_5_vl tied": partial(make_tiny_qwen_vl, kind="qwen2_5_vl", tied=True),
    "qwen3_vl": partial(make_tiny_qwen_vl, kind="qwen3_vl"),
    "qwen3_vl tied": partial(make_tiny_qwen_vl, kind="qwen3_vl", tied=True),
    "qwen3_vl_moe": partial(make_tiny_qwen_vl, kind="qwen3_vl_moe"),
    "idefics3": partial(make_tiny_idefics3, kind="idefics3"),
    "smolvlm": partial(make_tiny_idefics3, kind="smolvlm"),
}
"""A maker for each model_type of `VLMS`; what follows a space tells apart several of one."""
SPECIAL_TOKENS: dict[str, tuple[str, ...] | list[str]] = {
    "llava": SPECIAL,
    "qwen2_5_vl": QWEN_SPECIAL,
    "qwen3_vl": QWEN_SPECIAL,
    "qwen3_vl_moe": QWEN_SPECIAL,
    "idefics3": IDEFICS3_SPECIAL,
    "smolvlm": SMOLVLM_SPECIAL,
}
