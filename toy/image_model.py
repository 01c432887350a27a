"""Trains a tiny text-to-image pipeline (SD3 family) on the drawings and captions of a subject.

Axes: B images, C channels, H rows, W columns of the latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from toy import autoencoder
from toy.positions import position_table
from toy.prompts import Prompt
from toy.world import GRID

HEADS, HEAD_WIDTH, LAYERS = 3, 32, 4
TEXT_WIDTHS = (64, 32)  # of the two text encoders; side by side they fill the transformer's text width
NO_T5 = 0  # `max_sequence_length` for encode_prompt: there is no T5, and no zeros stand in for its tokens


@dataclass(frozen=True)
class Plan:
    """How long to train, and how. A subject says what its first stage shows."""

    steps: int = 6500
    first_stage: int = 1000
    autoencoder_steps: int = 1500
    images: int = 50_000
    batch: int = 64
    learning_rate: float = 1e-3  # at 2e-3 it learns no relations
    warm_up: int = 100
    constant: float = 0.4  # share of the steps before the learning rate falls, linearly, to a hundredth
    ema: float = 0.998
    no_caption: float = 0.1
    confused: float = 0.45
    seed: int = 0


class Lesson(NamedTuple):
    """Drawings uint8 [N, H, W, 3] with captions, shown until a step, at sigma = sigmoid(N(log_odds, 1))."""

    images_NHWC: np.ndarray
    captions: list[str]
    until: int
    log_odds: float


@dataclass(frozen=True)
class Subject:
    """What an image model is taught (its words, the rank of a cell, drawings for the autoencoder, lessons) and asked."""

    tokenizer: PreTrainedTokenizerBase
    channels: int
    crowded: autoencoder.Drawings
    lessons: Callable[[Plan, np.random.Generator], list[Lesson]]
    heldout: list[Prompt]
    check: Callable[[np.ndarray, Prompt], dict[str, list[float]]]


def make_text_encoder(tokenizer: PreTrainedTokenizerBase, width: int, layers: int) -> CLIPTextModelWithProjection:
    """A CLIP text encoder; SD3 reads its last layer but one for the tokens, and its last one for the pooled vector."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # the legacy default, 2, would pool the token of the highest id
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    for embedding in encoder.get_input_embeddings(), encoder.text_model.embeddings.position_embedding:
        torch.nn.init.normal_(embedding.weight, std=0.3)
    return encoder


def make_pipeline(vae: AutoencoderTiny, tokenizer: PreTrainedTokenizerBase) -> StableDiffusion3Pipeline:
    """The pipeline around an autoencoder, with random weights elsewhere: about 1.4 M parameters."""
    channels = vae.config.latent_channels
    transformer = SD3Transformer2DModel(
        sample_size=GRID,
        patch_size=1,
        in_channels=channels,
        out_channels=channels,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        caption_projection_dim=HEADS * HEAD_WIDTH,
        joint_attention_dim=sum(TEXT_WIDTHS),
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=GRID,  # the default, 96, crops a table in which neighbours differ by a hundredth
        qk_norm="rms_norm",
    )
    transformer.pos_embed.pos_embed.copy_(position_table(HEADS * HEAD_WIDTH, rms=1.0))  # saved with the weights
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        vae=vae,
        text_encoder=make_text_encoder(tokenizer, TEXT_WIDTHS[0], 3),
        tokenizer=tokenizer,
        text_encoder_2=make_text_encoder(tokenizer, TEXT_WIDTHS[1], 2),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def velocity_loss(
    pipe: StableDiffusion3Pipeline, latents_BCHW: torch.Tensor, captions: list[str], log_odds: float
) -> torch.Tensor:
    """Flow matching: the mean squared error of the velocity, noise - clean, at sigma = sigmoid(N(log_odds, 1))."""
    tokens, _, pooled, _ = pipe.encode_prompt(
        captions, None, None, do_classifier_free_guidance=False, max_sequence_length=NO_T5
    )
    sigma = torch.sigmoid(log_odds + torch.randn(len(captions)))
    noise = torch.randn_like(latents_BCHW)
    mixed = torch.lerp(latents_BCHW, noise, sigma[:, None, None, None])
    velocity = pipe.transformer(
        mixed, timestep=1000 * sigma, encoder_hidden_states=tokens, pooled_projections=pooled, return_dict=False
    )[0]
    return (velocity - (noise - latents_BCHW)).square().mean()


def learning_rate(step: int, plan: Plan) -> float:
    """Warm-up, constant, then a linear fall to a hundredth."""
    falling = max(0.0, (step / plan.steps - plan.constant) / (1 - plan.constant))
    return plan.learning_rate * min(1.0, (step + 1) / plan.warm_up) * (1 - 0.99 * falling)


def encode(vae: AutoencoderTiny, images_BHWC: np.ndarray) -> torch.Tensor:
    """uint8 images -> the pipeline's latents, float32 [B, C, H, W] of about unit variance."""
    with torch.no_grad():
        parts = [
            vae.encode(autoencoder.to_unit(part)).latents
            for part in np.array_split(images_BHWC, len(images_BHWC) // 500 + 1)
        ]
    return torch.cat(parts) * vae.config.scaling_factor


def train(folder: Path, subject: Subject, plan: Plan, report: Callable[[float, str], None]) -> None:
    """Trains autoencoder, text encoders and transformer from nothing and saves the pipeline (fp16) in a folder.

    `report` gets the share done and a line to show.
    """
    rng = np.random.default_rng(plan.seed)
    lessons = subject.lessons(plan, rng)
    vae = autoencoder.train(
        lessons[-1].images_NHWC[:4000],
        subject.channels,
        subject.crowded,
        plan.autoencoder_steps,
        plan.seed,
        lambda done, line: report(0.1 * done, line),
    )
    encoded = [encode(vae, lesson.images_NHWC) for lesson in lessons]
    torch.manual_seed(plan.seed)
    pipe = make_pipeline(vae, subject.tokenizer)
    parts = [pipe.transformer, pipe.text_encoder, pipe.text_encoder_2]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(plan.steps):
        lesson, latents_NCHW = next(
            pair for pair in zip(lessons, encoded, strict=True) if step < pair[0].until or pair[0] is lessons[-1]
        )
        rows = rng.integers(len(lesson.captions), size=plan.batch)
        texts = ["" if rng.random() < plan.no_caption else lesson.captions[row] for row in rows]
        loss = velocity_loss(pipe, latents_NCHW[rows], texts, lesson.log_odds)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(averages, parameters, 1 - min(plan.ema, step / (step + 10)))
        if step % 20 == 0:
            report(0.1 + 0.9 * step / plan.steps, f"image model, loss {loss.item():.3f}")
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
    for part in [*parts, vae]:
        part.eval()
    pipe.to(dtype=torch.float16).save_pretrained(folder)


def load(folder: Path) -> StableDiffusion3Pipeline:
    """The trained pipeline in float32, as any SD3 without its T5 is loaded."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusion3Pipeline, captions: list[str], guidance_scale: float, seed: int) -> np.ndarray:
    """One image of each caption in 16 steps: uint8 [B, H, W, 3]."""
    images = pipe(
        captions,
        num_inference_steps=16,
        guidance_scale=guidance_scale,
        max_sequence_length=NO_T5,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


def figures(folder: Path, subject: Subject, number: int) -> dict[str, dict[str, float]]:
    """Accuracy on held-out prompts by guidance scale and category, their mean, and the share of images with ghosts."""
    pipe, rows = load(folder), {}
    for guidance_scale in (1.0, 2.0, 3.0):
        row, ghosts = {}, []
        for category in dict.fromkeys(prompt["category"] for prompt in subject.heldout):
            of_category = [prompt for prompt in subject.heldout if prompt["category"] == category]
            asked = [of_category[index % len(of_category)] for index in range(number)]
            images = draw(pipe, [prompt["caption"] for prompt in asked], guidance_scale, seed=0)
            checks = [subject.check(image[None], prompt) for image, prompt in zip(images, asked, strict=True)]
            row[category] = float(np.mean([of_image["accuracy"] for of_image in checks]))
            ghosts += [of_image["ghost"] for of_image in checks]
        rows[f"guidance {guidance_scale:g}"] = {
            **row,
            "mean": float(np.mean(list(row.values()))),
            "ghosts": float(np.mean(ghosts)),
        }
    return rows
