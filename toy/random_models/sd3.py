"""A tiny Stable Diffusion 3 with random weights, made of real diffusers and transformers classes and saved as a folder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = "a an one two three red green blue circle square triangle cross left right of above below and photo".split()


def make_word_tokenizer(longest: int) -> PreTrainedTokenizerFast:
    """A token for each of WORDS, with a start and an end around a text; `longest` in all."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<start>", "<end>", "<unk>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return between_marks(core, longest)


def between_marks(core: Tokenizer, longest: int) -> PreTrainedTokenizerFast:
    """A tokenizer with <pad>, <start>, <end> and <unk>, that writes a start and an end around a text."""
    core.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(mark, core.token_to_id(mark)) for mark in ("<start>", "<end>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
        model_max_length=longest,
    )


def make_tiny_t5() -> T5EncoderModel:
    """The encoder of the words of `make_word_tokenizer`, 32 wide."""
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    return T5EncoderModel(T5Config(vocab_size=len(WORDS) + 4, pad_token_id=0, eos_token_id=2, **shape))


def make_tiny_vae(scaling_factor: float) -> AutoencoderKL:
    """The VAE of SD3, FLUX and Z-Image, with 4 pixels to a latent and few channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=scaling_factor,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def make_tiny_sd3(folder: Path, seed: int = 0, with_t5: bool = False) -> Path:
    """Writes the pipeline; images are 32x32, latents 4x8x8, captions of up to 14 words or, with T5, as long as one likes."""
    torch.manual_seed(seed)
    tokenizer = make_word_tokenizer(16)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=64,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        vae=make_tiny_vae(1.5),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        text_encoder_3=make_tiny_t5() if with_t5 else None,
        tokenizer_3=make_word_tokenizer(512) if with_t5 else None,
    )
    pipeline.save_pretrained(folder)
    return folder
