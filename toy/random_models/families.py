"""A tiny model with random weights of every family, made of real diffusers and transformers classes and saved as a folder.

Images are multiples of 8 pixels, latents have 4 channels and cover 4 pixels, tokens cover 2 x 2 latents.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
)

from toy.random_models.sd3 import WORDS, make_tiny_sd3, make_tiny_t5, make_tiny_vae, make_word_tokenizer

WIDTH = 32
ROPE = (4, 6, 6)  # of the 16 numbers of a head
CHAT_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>")
CHAT_WORDS = (
    "system user assistant Describe the image by detailing color shape size texture quantity text spatial relationships objects"
    " background : ,"
).split()
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<unk>{% endif %}{% endif %}"
)


def make_chat_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word, sign and new line, so that Qwen-Image's system prompt has the 34 tokens that its pipeline drops."""
    words = dict.fromkeys(["<unk>", *CHAT_SPECIAL, "\n", *CHAT_WORDS, *WORDS])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CHAT_SPECIAL])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def make_tiny_flux(folder: Path, guidance_embeds: bool, seed: int = 0) -> Path:
    """Writes a FLUX.1-dev, which is told the guidance scale and shifts by image size, or a FLUX.1-schnell, which does neither."""
    torch.manual_seed(seed)
    clip = CLIPTextConfig(
        vocab_size=len(WORDS) + 4, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        pooled_projection_dim=16, guidance_embeds=guidance_embeds, axes_dims_rope=ROPE,
    )  # fmt: skip
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=guidance_embeds, base_image_seq_len=4, max_image_seq_len=64
        ),
        vae=make_tiny_vae(0.4),
        text_encoder=CLIPTextModel(clip),
        tokenizer=make_word_tokenizer(16),
        text_encoder_2=make_tiny_t5(),
        tokenizer_2=make_word_tokenizer(512),
    ).save_pretrained(folder)
    return folder


def make_tiny_qwen_image(folder: Path, seed: int = 0) -> Path:
    """Writes a Qwen-Image. Its VAE of videos has 4 pixels to a latent, and its schedule ends at 0.02."""
    torch.manual_seed(seed)
    tokenizer = make_chat_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    text = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
            "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 1, "hidden_size": WIDTH, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": WIDTH, "patch_size": 4,
            "window_size": 16, "fullatt_block_indexes": [0],
        },
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"], vision_start_token_id=ids["vision_start"],
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        axes_dims_rope=ROPE,
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[-0.5, 0.1, 0.4, -0.2], latents_std=[1.5, 0.8, 2.1, 1.2],
    )  # fmt: skip
    QwenImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64, max_shift=0.9, shift_terminal=0.02
        ),
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(text),
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder


def make_tiny_z_image(folder: Path, seed: int = 0) -> Path:
    """Writes a Z-Image whose padding tokens are not zero, and whose positions end at captions of 96 tokens."""
    torch.manual_seed(seed)
    tokenizer = make_chat_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=4096, initializer_range=0.2, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=WIDTH, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=list(ROPE), axes_lens=[112, 64, 64],
    )  # fmt: skip
    with torch.no_grad():
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_tiny_vae(0.4),
        text_encoder=Qwen3Model(text),
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder


MAKERS = {
    "flux-dev": partial(make_tiny_flux, guidance_embeds=True),
    "flux-schnell": partial(make_tiny_flux, guidance_embeds=False),
    "qwen-image": make_tiny_qwen_image,
    "sd3": make_tiny_sd3,
    "sd3-t5": partial(make_tiny_sd3, with_t5=True),
    "z-image": make_tiny_z_image,
}
