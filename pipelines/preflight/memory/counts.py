"""What a recipe makes workers hold at a time: images, rows and samples, and the bytes of a number."""

from __future__ import annotations

import math

from actors.families.image import Shape
from actors.options import DType
from pipelines.recipe.tables import Heldout, Objective, Policy, Rollout, Worker

FLOAT32 = 4  # bytes


def images_of_task(rollout: Rollout, heldout: Heldout | None) -> int:
    """The most images of a group in a draw or a score, those of evaluations included, if there are any."""
    return max(rollout.images_per_score, heldout.images_of_group if heldout else 0)


def image_bytes(rollout: Rollout, objective: Objective, shape: Shape) -> int:
    """One image in the object store: its pixels, its latents, and what the objective keeps of how it was drawn."""
    size = rollout.height, rollout.width
    return 3 * size[0] * size[1] + (1 + objective.kept_latents) * shape.latents(*size) * FLOAT32


def rows_of_update(rollout: Rollout, policy: Policy, objective: Objective, shape: Shape) -> int:
    """Rows of the transformer's batch in a backward: samples of a micro-batch times their points, twice with guidance in the loss."""
    samples = min(policy.micro_batch, samples_of_rank(rollout, policy.ranks))
    return samples * rows_of_sample(objective, rollout.guidance_scale, shape)


def rows_of_sample(objective: Objective, guidance_scale: float, shape: Shape) -> int:
    """Rows of the transformer's batch for a sample in the loss: its points, twice with guidance."""
    guided = objective.guides and shape.doubles(guidance_scale)
    return objective.points * (2 if guided else 1)


def samples_of_rank(rollout: Rollout, ranks: int) -> int:
    """The most samples that a policy rank gets in a step."""
    return math.ceil(rollout.chunks_per_step / ranks) * rollout.images_per_score


def on_gpu(table: Worker) -> bool:
    """Whether the workers of a table run on a GPU: Ray shows none to a worker that asks for none."""
    return table.num_gpus > 0 and getattr(table, "device", "auto") != "cpu"


def element_of(dtype: DType, gpu: bool) -> int:
    """Bytes of a number of the model."""
    return 2 if dtype in ("bfloat16", "float16") or (dtype == "auto" and gpu) else FLOAT32
