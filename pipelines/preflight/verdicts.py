"""Problems of a recipe other than memory: what cannot start, and what runs but gives poor results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from actors.families.image import Shape
from actors.messages import Prompt
from actors.policy.objectives.options import ObjectiveOptions
from actors.reward.options import RewardOptions, VlmOptions
from pipelines.preflight.memory.counts import on_gpu
from pipelines.preflight.memory.models import ImageModel, Judge, Models
from pipelines.recipe.tables import Policy, Rollout
from pipelines.recipe.training import Recipe

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward

LARGE = 10**9  # numbers: a model that no one wants to run on a CPU
TASKS_PER_WORKER = 3  # and step, below which workers wait (docs/performance.md)


def obstacles(policy: Policy, rollout: Rollout, rewards: Mapping[str, Reward], models: Models) -> list[str]:
    """Why the workers would not start."""
    image, shape = models.image, models.image.shape(policy.max_sequence_length)
    found = [line for pool, judge in models.judges.items() for line in _of_judge(pool, rewards[pool], judge)]
    found += cannot_read(shape, "policy", policy.max_sequence_length)
    sizes = [("rollout.height", rollout.height), ("rollout.width", rollout.width)]
    found += cannot_draw(image, shape, sizes)
    if on_gpu(policy) and policy.ranks > 1 and policy.num_gpus <= 0.5:
        found.append(
            f"policy.num_gpus = {policy.num_gpus} with policy.ranks = {policy.ranks}: Ray packs two ranks on one GPU, and NCCL "
            "refuses that; give more than 0.5, or one rank"
        )
    return found


def _of_judge(pool: str, reward: RewardOptions, judge: Judge) -> Iterator[str]:
    kind, pixels = judge.model.config.get("model_type", ""), _pixels_of(reward)
    if pixels is not None and judge.family and judge.family.one_size:
        yield f"{pool}.image_pixels = {pixels}: a judge of the type {kind} reads images of one size: leave the key out"


def gpus_not_asked_for(policy: Policy, rollout: Rollout, rewards: Mapping[str, Reward]) -> list[str]:
    """The tables whose workers on Ray would find no GPU."""
    return cuda_without_gpus(
        (
            ("policy", policy.device, policy.num_gpus),
            ("rollout", rollout.device, rollout.num_gpus),
            *((pool, reward.where, reward.num_gpus) for pool, reward in rewards.items()),
        )
    )


def cuda_without_gpus(devices: Iterable[tuple[str, str, float]]) -> list[str]:
    """The same of tables, each with its device and its GPUs."""
    return [
        f'{name}.device = "cuda" with {name}.num_gpus = 0: Ray shows no GPU to a worker that asks for none'
        for name, device, gpus in devices
        if device == "cuda" and not gpus
    ]


def cannot_read(shape: Shape, table: str, length: int) -> list[str]:
    """That captions would have more tokens than a model reads."""
    if length <= shape.longest:
        return []
    return [f"{table}.max_sequence_length = {length}: this model reads at most {shape.longest} tokens"]


def cannot_draw(image: ImageModel, shape: Shape, sizes: Sequence[tuple[str, int]]) -> list[str]:
    """The pixels, each with its key, that a model does not draw: no multiples, or beyond the transformer's table of positions."""
    unit, places = shape.unit, image.transformer.config.get("pos_embed_max_size") or 0
    if odd := [(key, pixels) for key, pixels in sizes if pixels % unit]:
        return [
            f"{key} = {pixels}: this model draws multiples of {unit}, such as {_nearest(pixels, shape)}"
            for key, pixels in odd
        ]
    largest = places * unit
    return [
        f"{key} = {pixels}: this model draws at most {largest} pixels in each direction"
        for key, pixels in sizes
        if places and pixels > largest
    ]


def warnings(recipe: Recipe, models: Models, prompts: Sequence[Prompt]) -> list[str]:
    """What would run, but not as its user expects. Only what follows from the recipe and the files themselves."""
    shape = models.image.shape(recipe.policy.max_sequence_length)
    return [
        *_guidance(recipe.rollout, recipe.objective, shape),
        *_captions(shape, recipe.policy.max_sequence_length, prompts),
        *_workers(recipe, models),
        *(line for pool, reward in recipe.rewards.items() for line in _judge(recipe.rollout, pool, reward)),
    ]


def _guidance(rollout: Rollout, objective: ObjectiveOptions, shape: Shape) -> Iterator[str]:
    scale = rollout.guidance_scale
    mixed = shape.doubles(scale)
    if mixed and not objective.guides:
        yield (
            f"rollout.guidance_scale = {scale:g} draws with guidance, but {objective.type} trains the velocity without it: "
            f"the update is of another policy than the one that drew; guidance_scale = {shape.unguided:g} draws without"
        )
    if mixed and objective.guides and scale >= 4:
        yield f"rollout.guidance_scale = {scale:g}: others report collapse when they train at 4.5; watch the held-out figures"
    if shape.unguided == 0 and scale == 1:
        yield "rollout.guidance_scale = 1 is what 2 is elsewhere: with this model no guidance is 0, at half the cost of drawing"
    if shape.guidance == "none" and scale != 1:
        yield f"rollout.guidance_scale = {scale:g} is without effect: this model knows no guidance"
    if shape.guidance == "told" and scale <= 1:
        yield (
            f"rollout.guidance_scale = {scale:g} is an input of the network: it was distilled for scales around 3.5, and 1 is "
            "not 'none'"
        )


def _captions(shape: Shape, max_sequence_length: int, prompts: Sequence[Prompt]) -> Iterator[str]:
    """Words are counted, since a word is a token at least: these captions are cut for certain, others may be."""
    longest = max(1, max_sequence_length or shape.text - shape.unread)
    cut = sum(len(prompt.caption.split()) > longest for prompt in prompts)
    if cut:
        yield (
            f"{cut} of {len(prompts)} captions have more words than policy.max_sequence_length = {longest} tokens: they are cut, "
            f"for drawing and for the reward; the model reads up to {shape.longest}"
        )


def _workers(recipe: Recipe, models: Models) -> Iterator[str]:
    sizes = (
        ("policy", recipe.policy, models.image.transformer.numel),
        ("rollout", recipe.rollout, models.image.transformer.numel),
        *((pool, reward, _numel(models.judges.get(pool))) for pool, reward in recipe.rewards.items()),
    )
    for name, table, numel in sizes:
        if numel >= LARGE and not on_gpu(table):
            yield f"{name}.num_gpus = 0: {numel / 1e9:.1f} billion parameters would run on a CPU"
        if table.num_gpus > 1:
            yield f"{name}.num_gpus = {table.num_gpus:g}: a worker uses one GPU, and the others stay idle"
    for name, pool, tasks in (
        ("rollout", recipe.rollout, recipe.rollout.draws_per_step),
        *((pool, reward, recipe.rollout.chunks_per_step) for pool, reward in recipe.rewards.items()),
    ):
        if pool.size > 1 and tasks < TASKS_PER_WORKER * pool.size and recipe.loop.order == "strict":
            yield (
                f"{name}.size = {pool.size} workers share {tasks} tasks of a step: below {TASKS_PER_WORKER} each, they wait for "
                "the last one; lower rollout.groups_per_task or rollout.chunk, or raise rollout.prompts_per_step"
            )


def _numel(judge: Judge | None) -> int:
    return judge.model.numel if judge else 0


def _judge(rollout: Rollout, pool: str, reward: RewardOptions) -> Iterator[str]:
    pixels, budget = rollout.height * rollout.width, _pixels_of(reward)
    if budget is not None and budget > pixels:
        yield f"{pool}.image_pixels = {budget} is without effect: images have {pixels} pixels"


def _pixels_of(reward: RewardOptions) -> int | None:
    """The budget of pixels that a VLM is given."""
    return reward.image_pixels if isinstance(reward, VlmOptions) else None


def _nearest(pixels: int, shape: Shape) -> int:
    return max(shape.unit, round(pixels / shape.unit) * shape.unit)
