"""How much memory each worker of a recipe needs: what it holds, and what comes beside that.

Pure arithmetic on configs: it loads no model, no torch and no Ray. Formulas, assumptions and how they compare with measurements:
docs/doctor.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from actors.diffusion.limits import CACHED_CAPTIONS, PIXELS_AT_ONCE, UNTILED_PIXELS
from actors.families.image import Network, Shape
from actors.models.kinds import Kind
from actors.reward.options import VlmOptions
from pipelines.preflight.memory import dual_encoder as embedding
from pipelines.preflight.memory import judge as vlm
from pipelines.preflight.memory.cards import GIB, NOT_OF_TORCH, Actor
from pipelines.preflight.memory.counts import (
    FLOAT32,
    element_of,
    image_bytes,
    images_of_task,
    on_gpu,
    rows_of_update,
    samples_of_rank,
)
from pipelines.preflight.memory.models import ImageModel, Judge, Part
from pipelines.preflight.memory.networks import Pass, backward_bytes, forward_bytes, saved_bytes
from pipelines.recipe.tables import Heldout, Objective, Policy, Rollout

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward

FLOAT64 = 8
CONTEXT = int(0.6 * GIB)  # of CUDA and its libraries in one process; assumed
COLLECTIVES = GIB  # NCCL's buffers in a rank of several; assumed
SLACK = 0.05  # of what comes and goes, for the allocator's gaps; assumed
LIVE_NUMEL = 10**9  # of weights that DeepSpeed's stage 3 keeps gathered (its default)


def policy_rank(rollout: Rollout, policy: Policy, objective: Objective, model: ImageModel, shape: Shape) -> Actor:
    """One rank: base and LoRA, the optimiser's share, a step's samples, and the widest moment of an update."""
    gpu = on_gpu(policy)
    element = element_of(policy.dtype, gpu)
    network = model.network(policy.lora_targets)
    weights = model.transformer.numel * element
    sharded = policy.zero_stage == 3 and policy.ranks > 1
    gathered = min(model.transformer.numel, LIVE_NUMEL) * element
    held = {
        "transformer": min(weights, weights // policy.ranks + gathered) if sharded else weights,
        "text encoders": _encoders_held(policy, model, element),
        "captions": _captions_bytes(-(-rollout.prompts_per_step // policy.ranks), shape, element),
        **trained_bytes(policy.zero_stage, policy.ranks, network.lora * policy.lora_rank),
        "samples of a step": _samples_bytes(rollout, objective, policy.ranks, shape, element),
        **_overhead(gpu, policy.ranks),
    }
    phases = {
        **({"loading": weights - held["transformer"]} if sharded else {}),
        "encoding": _encoding(policy, model, shape, element),
        "update": _slack(_update_bytes(rollout, policy, objective, network, shape, element)),
    }
    return Actor("policy", policy.ranks, policy.num_gpus, gpu, held, phases, _files_bytes(model, element, vae=False))


def rollout_worker(
    rollout: Rollout, targets: str, objective: Objective, heldout: Heldout | None, model: ImageModel, shape: Shape
) -> Actor:
    """One worker: the pipeline, and the widest of encoding a caption, drawing a chunk, decoding it and merging an adapter.

    `targets`: of the LoRA; `heldout`: where the run evaluates.
    """
    gpu = on_gpu(rollout)
    element = element_of(rollout.dtype, gpu)
    network = model.network(targets)
    held = {
        "transformer": model.transformer.numel * element,
        "text encoders": _encoders_held(rollout, model, element),
        "captions": _captions_bytes(0, shape, element),
        "VAE": model.vae.numel * FLOAT32,
        **_overhead(gpu, ranks=1),
    }
    images = images_of_task(rollout, heldout)
    pixels = rollout.height * rollout.width
    decoded = min(max(1, PIXELS_AT_ONCE // pixels) * pixels, images * pixels, UNTILED_PIXELS)
    widest_matrix = 5 * network.width**2 if targets == "all" else network.width**2
    phases = {
        "encoding": _encoding(rollout, model, shape, element),
        "drawing": _slack(_drawing_bytes(rollout, objective, heldout, network, shape, element)),
        "decoding": _slack(decoded * decoder_numel(model.vae) * FLOAT32 + images * pixels * 3 * 3 * FLOAT32),
        "merging": 3 * widest_matrix * FLOAT32,
    }
    return Actor("rollout", rollout.size, rollout.num_gpus, gpu, held, phases, _files_bytes(model, element, vae=True))


def reward_worker(
    pool: str, reward: Reward, judge: Judge | None, rollout: Rollout, heldout: Heldout | None, shape: Shape
) -> Actor:
    """One worker: the model that judges, if there is one, and what a chunk of images needs beside it."""
    gpu = on_gpu(reward)
    held, phases = _overhead(gpu, ranks=1), {}
    if judge:
        element = element_of(getattr(reward, "dtype", "auto"), gpu)
        held = {HELD[judge.kind]: judge.model.numel * element, **held}
        images = images_of_task(rollout, heldout)
        beside = SCORING[judge.kind](reward, judge, images, (rollout.height, rollout.width), shape, gpu)
        phases = {name: _slack(size) for name, size in beside.items()}
    return Actor(pool, reward.size, reward.num_gpus, gpu, held, phases)


def _vlm_scoring(
    table: Reward, judge: Judge, images: int, size: tuple[int, int], shape: Shape, gpu: bool
) -> dict[str, int]:
    """The forward passes over images of a height and width, and the log-probabilities of the tokens that are asked for."""
    reward = cast("VlmOptions", table)
    task = vlm.Scoring(
        images=images,
        height=size[0],
        width=size[1],
        caption=shape.text,
        predicted=reward.predicted(shape.text),
        element=element_of(reward.dtype, gpu),
        gpu=gpu,
        chunk_tokens=reward.chunk_tokens,
        image_pixels=reward.image_pixels,
    )
    return {"forward passes": vlm.pass_bytes(judge, task), "log-probabilities": vlm.logits_bytes(judge, task)}


def _embedding(
    table: Reward, judge: Judge, images: int, size: tuple[int, int], shape: Shape, gpu: bool
) -> dict[str, int]:
    """The forward pass over images, which are brought to the encoder's own size."""
    element = element_of(getattr(table, "dtype", "auto"), gpu)
    return {"forward passes": embedding.pass_bytes(judge, images, element, gpu)}


HELD: dict[Kind, str] = {"vlm": "VLM", "dual_encoder": "both encoders"}
SCORING: dict[Kind, Callable[[Reward, Judge, int, tuple[int, int], Shape, bool], dict[str, int]]] = {
    "vlm": _vlm_scoring,
    "dual_encoder": _embedding,
}
"""By the kind of the model that judges, the bytes of what comes beside it, one after another."""


def trained_bytes(stage: int, ranks: int, numel: int) -> dict[str, int]:
    """What a rank holds of a LoRA of `numel` float32 numbers, by ZeRO stage: weights, their average, gradient and AdamW's moments.

    Stages 1 to 3 also hold a flat copy of the rank's share of the weights, and a bucket as large as the whole gradient. Stage 3 shares
    out weights as well, but matrices below 100,000 numbers stay whole, and so all are counted whole.
    """
    whole, share = numel * FLOAT32, math.ceil(numel / ranks) * FLOAT32
    if stage == 0:
        return {"LoRA and its average": 2 * whole, "gradient": whole, "optimiser": 2 * whole}
    gradient = whole + (whole if stage == 1 else share)
    return {"LoRA and its average": 2 * whole + share, "gradient": gradient, "optimiser": 2 * share}


def decoder_numel(vae: Part) -> int:
    """Numbers per pixel at the widest place of a VAE's decoder: three feature maps of its second width at full size.

    The causal convolutions of Qwen-Image's VAE pad and copy: 18 maps of its base width were counted.
    """
    config = vae.config
    if "base_dim" in config:
        return 18 * config["base_dim"]
    widths = config["block_out_channels"]
    return 3 * widths[min(1, len(widths) - 1)]


def _parked(table: Policy | Rollout) -> bool:
    return on_gpu(table) and table.text_encoders == "park"


def _encoders_held(table: Policy | Rollout, model: ImageModel, element: int) -> int:
    return 0 if _parked(table) else _encoders_bytes(model, element)


def _captions_bytes(captions: int, shape: Shape, element: int) -> int:
    """What stays encoded on the device: the captions of a step, and at least those asked for last."""
    return max(CACHED_CAPTIONS, captions) * shape.text * shape.caption_width * element


def _encoders_bytes(model: ImageModel, element: int) -> int:
    return sum(part.numel for part in model.encoders.values()) * element


def _encoding(table: Policy | Rollout, model: ImageModel, shape: Shape, element: int) -> int:
    """One caption through the text encoders, with these on the device where they are parked else."""
    activations = max((_encoder_activations(part, shape.text) for part in model.encoders.values()), default=0)
    return (_encoders_bytes(model, element) if _parked(table) else 0) + _slack(activations * element)


def _encoder_activations(part: Part, tokens: int) -> int:
    """Numbers of a forward pass: every layer's states, which pipelines ask for, the widest layer, and logits where there is a head."""
    config = part.config.get("text_config") or part.config
    width = config.get("hidden_size") or config["d_model"]
    inner = config.get("intermediate_size") or config["d_ff"]
    layers = config.get("num_hidden_layers") or config["num_layers"]
    head = config["vocab_size"] if part.kind.endswith(("ForConditionalGeneration", "ForCausalLM")) else 0
    heads = config.get("num_attention_heads") or config["num_heads"]
    return tokens * ((layers + 5) * width + 3 * inner + head) + 3 * heads * tokens**2


def _samples_bytes(rollout: Rollout, objective: Objective, ranks: int, shape: Shape, element: int) -> int:
    """A rank's samples of a step, which all lie on its device: captions row by row, latents and what was kept of the draw."""
    samples = samples_of_rank(rollout, ranks)
    halves = 2 if shape.doubles(rollout.guidance_scale) else 1
    latents = image_bytes(rollout, objective, shape) - 3 * rollout.height * rollout.width
    return samples * (halves * shape.text * shape.caption_width * element + latents)


def _update_bytes(
    rollout: Rollout, policy: Policy, objective: Objective, network: Network, shape: Shape, element: int
) -> int:
    """What a micro-batch adds: its rows of captions and latents (in float64 in the loss), what is saved, the widest backward."""
    size = rollout.height, rollout.width
    rows = rows_of_update(rollout, policy, objective, shape)
    run = Pass(rows, shape.image_tokens(*size), shape.padded(shape.text), element, policy.lora_rank)
    points = rows * (8 * FLOAT32 + 4 * FLOAT64) * shape.latents(*size)
    captions = rows * shape.text * shape.caption_width * element
    saved = saved_bytes(network, run, policy.activation_checkpointing)
    return points + captions + max(saved + backward_bytes(network, run), forward_bytes(network, run))


def _drawing_bytes(
    rollout: Rollout, objective: Objective, heldout: Heldout | None, network: Network, shape: Shape, element: int
) -> int:
    """The widest forward of a draw: of a batch, twice with guidance; of a held-out batch; or of a measurement at all points."""
    size = rollout.height, rollout.width
    rows = rollout.images_per_draw * (2 if shape.doubles(rollout.guidance_scale) else 1)
    rows = max(rows, rollout.images_per_draw * objective.measured_points)
    if heldout:
        scales = (*heldout.guidance_scales, *heldout.base_guidance_scales)
        rows = max(rows, heldout.images_per_task * (2 if any(map(shape.doubles, scales)) else 1))
    run = Pass(rows, shape.image_tokens(*size), shape.padded(shape.text), element, rank=0)
    captions = 2 * rows * shape.text * shape.caption_width * element
    latents = (
        6 * rows * shape.latents(*size) + rollout.images_per_draw * image_bytes(rollout, objective, shape) // FLOAT32
    ) * FLOAT32
    return forward_bytes(network, run) + captions + latents


def _files_bytes(model: ImageModel, element: int, vae: bool) -> int:
    """What a pipeline takes of the host's memory before it goes to the device."""
    parts = [model.transformer, *model.encoders.values()]
    return sum(part.numel for part in parts) * element + (model.vae.numel * FLOAT32 if vae else 0)


def _overhead(gpu: bool, ranks: int) -> dict[str, int]:
    return {NOT_OF_TORCH: CONTEXT + (COLLECTIVES if ranks > 1 else 0)} if gpu else {}


def _slack(size: float) -> int:
    return round(size * (1 + SLACK))
