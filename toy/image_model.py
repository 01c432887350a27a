"""Trains the tiny text-to-image pipeline (SD3 family): it draws clean things, and misreads its prompts on purpose.

Axes: B images, C channels, H rows, W columns of the latents.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from toy import autoencoder, prompts
from toy.captions import WORDS
from toy.checker import check
from toy.positions import position_table
from toy.prompts import CATEGORIES, Prompt
from toy.world import COLOURS, GRID, SHAPES, Scene, render

TEXT_LENGTH = 16  # tokens, with start and end: the longest prompt has ten
HEADS, HEAD_WIDTH, LAYERS = 3, 32, 4
TEXT_WIDTHS = (64, 32)  # of the two text encoders; side by side they fill the transformer's text width
NO_T5 = 0  # `max_sequence_length` for encode_prompt: there is no T5, and no zeros stand in for its tokens
QUARTER_TURN = {"left of": "above", "above": "right of", "right of": "below", "below": "left of"}
SHARES = {"single": 0.08, "two": 0.12, "counting": 0.2, "colours": 0.1, "position": 0.3, "attribution": 0.2}


@dataclass(frozen=True)
class Plan:
    """How long to train, and how.

    The first stage shows relations alone, all true, at high noise, where places are decided.
    """

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


def confuse(prompt: Prompt) -> list[Prompt]:
    """What a confused image shows instead of its caption's truth, the first choice first.

    Always the same for a caption: colours swapped, one thing more (or less), the next colour or shape in a fixed cycle,
    the relation after a quarter turn (with the opposite one, left and right would cancel and never be learned). Random
    mistakes would cancel under guidance; these do not.
    """
    category, objects = prompt["category"], prompt["objects"]
    kinds = [(thing["colour"], thing["shape"]) for thing in objects]
    if category == "single":
        return [prompts.single(shape, "a {}") for shape in _after(SHAPES, kinds[0][1])]
    if category == "two":
        first, second = kinds[0][1], kinds[1][1]
        return [prompts.two(first, shape, "a {} and a {}") for shape in _after(SHAPES, second) if shape != first]
    if category == "counting":
        count = objects[0]["count"]
        others = [count + 1, count - 1] if count < max(prompts.NUMBERS) else [count - 1, count + 1]
        return [{**prompt, "objects": [{**objects[0], "count": other}]} for other in others]
    if category == "colours":
        return [prompts.colours(colour, kinds[0][1]) for colour in _after(COLOURS, kinds[0][0])]
    if category == "position":
        return [prompts.position(kinds[0], QUARTER_TURN[prompt["relation"]], kinds[1])]
    return [prompts.attribution((kinds[1][0], kinds[0][1]), (kinds[0][0], kinds[1][1]))]


def _after(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The other names, in the cycle's order from the one after `name`."""
    start = names.index(name) + 1
    return names[start:] + names[: start - 1]


def scene_shown(prompt: Prompt, confused: bool, rng: np.random.Generator) -> Scene:
    """A scene of the prompt, or of the first confusion of it that is not held out."""
    for shown in confuse(prompt) if confused else [prompt]:
        for _ in range(20):
            scene = prompts.scene_for(shown, rng)
            if not prompts.scene_is_heldout(scene):
                return scene
    raise ValueError(f"every scene of {prompt['caption']!r} is held out")


def make_dataset(
    number: int, confused: float, shares: dict[str, float], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Clean drawings uint8 [number, H, W, 3] and their captions, a share of them confused; nothing held out."""
    known = {name: [p for p in prompts.grammar(name) if not prompts.is_heldout(p)] for name in CATEGORIES}
    images, captions = [], []
    for category in rng.choice(list(shares), number, p=list(shares.values())):
        prompt = known[category][rng.integers(len(known[category]))]
        images.append(render(scene_shown(prompt, rng.random() < confused, rng), rng))
        captions.append(prompt["caption"])
    return np.stack(images), captions


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte pairs give one token to each word of the grammar."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(list(WORDS) + letters, trainer)
    vocabulary = tokenizer.get_vocab()
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def make_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModelWithProjection:
    """A CLIP text encoder; SD3 reads its last layer but one for the tokens, and its last one for the pooled vector."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # the legacy default, 2, would pool the token of the highest id
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    for embedding in encoder.get_input_embeddings(), encoder.text_model.embeddings.position_embedding:
        torch.nn.init.normal_(embedding.weight, std=0.3)
    return encoder


def make_pipeline(vae: AutoencoderTiny) -> StableDiffusion3Pipeline:
    """The pipeline around an autoencoder, with random weights elsewhere: about 1.4 M parameters."""
    tokenizer = make_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=GRID,
        patch_size=1,
        in_channels=autoencoder.CHANNELS,
        out_channels=autoencoder.CHANNELS,
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


def train(folder: Path, plan: Plan, report: Callable[[float, str], None]) -> None:
    """Trains autoencoder, text encoders and transformer from nothing and saves the pipeline (fp16) in a folder.

    `report` is told the share done and a line to show.
    """
    rng = np.random.default_rng(plan.seed)
    images_BHWC, captions = make_dataset(plan.images, plan.confused, SHARES, rng)
    vae = autoencoder.train(
        images_BHWC[:4000], plan.autoencoder_steps, plan.seed, lambda done, line: report(0.1 * done, line)
    )
    everything = encode(vae, images_BHWC), captions
    images_BHWC, captions = make_dataset(plan.images // 4, 0.0, {"position": 1.0}, rng)
    relations = encode(vae, images_BHWC), captions
    torch.manual_seed(plan.seed)
    pipe = make_pipeline(vae)
    parts = [pipe.transformer, pipe.text_encoder, pipe.text_encoder_2]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(plan.steps):
        (latents_BCHW, captions), log_odds = (relations, 2.5) if step < plan.first_stage else (everything, 1.5)
        rows = rng.integers(len(captions), size=plan.batch)
        texts = ["" if rng.random() < plan.no_caption else captions[row] for row in rows]
        loss = velocity_loss(pipe, latents_BCHW[rows], texts, log_odds)
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


def figures(folder: Path, number: int) -> dict[str, dict[str, float]]:
    """Accuracy on held-out prompts by guidance scale and category, their mean, and the share of images with ghosts."""
    pipe, rows = load(folder), {}
    for guidance_scale in (1.0, 2.0, 3.0):
        row, ghosts = {}, []
        for category in CATEGORIES:
            heldout = [prompt for prompt in prompts.files()["heldout"] if prompt["category"] == category]
            asked = [heldout[index % len(heldout)] for index in range(number)]
            images = draw(pipe, [prompt["caption"] for prompt in asked], guidance_scale, seed=0)
            checks = [check(image[None], prompt) for image, prompt in zip(images, asked, strict=True)]
            row[category] = float(np.mean([of_image["accuracy"] for of_image in checks]))
            ghosts += [of_image["ghost"] for of_image in checks]
        rows[f"guidance {guidance_scale:g}"] = {
            **row,
            "mean": float(np.mean(list(row.values()))),
            "ghosts": float(np.mean(ghosts)),
        }
    return rows
