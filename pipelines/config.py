"""Recipes: a TOML file plus `--set key=value`, read into typed tables and checked across fields. Loads neither torch nor ray."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class UserError(ValueError):
    """A mistake in what the user gave; its text says what was given, what is allowed and what to do. Exit code 2."""


class Table(BaseModel):
    """A table of a recipe: unknown keys are errors, values are not coerced from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 on a GPU that has it, else float32


class Run(Table):
    """What names the run and makes it repeatable."""

    name: str = ""
    seed: int = 0
    threads: Count = 1  # of torch, in every worker: part of what decides the bytes on a CPU
    notes: tuple[str, ...] = ()  # shown in summary.json and in the report


class LoopTable(Table):
    """The asynchronous loop."""

    steps: Count
    staleness: Annotated[int, Field(ge=0)] = 1
    order: Literal["strict", "ready"] = "strict"
    retries: Annotated[int, Field(ge=0)] = 2  # of a task that raised
    lost_retries: Annotated[int, Field(ge=0)] = 10  # of a task whose worker or payload was lost
    max_failures_in_row: Count = 8  # quarantined groups, or policy restarts without a new step
    max_groups_in_flight: Count | None = None
    max_bytes_in_flight: Count | None = None  # None: STORE_SHARE of the object store
    checkpoint_every: Count = 50
    keep_checkpoints: Count = 2  # the newest ones
    keep_best: bool = True  # and the one with the best held-out figure
    checkpoints: str = ""  # a folder or a URL such as s3://bucket/run; empty: checkpoints/ in the run folder


class Data(Table):
    """The prompt sets (JSONL), and how many prompts of each category a step takes (empty: as they come)."""

    train: str
    heldout: str | None = None
    mix: dict[str, Count] = {}


class Pool(Table):
    """A pool of interchangeable workers; the resources are those of one worker."""

    size: Count = 1
    min: Count = 1
    max: Count | None = None
    num_cpus: Fraction = 1.0
    num_gpus: Fraction = 0.0
    resources: dict[str, float] = {}


class Rollout(Pool):
    """How images are drawn for training."""

    group_size: Annotated[int, Field(ge=2)] = 8
    prompts_per_step: Count = 8
    chunk: Count | None = None  # images per task; None: a whole group
    steps: Count = 10
    guidance_scale: Annotated[float, Field(ge=0)] = 1.0
    height: Count = 512
    width: Count = 512
    device: Device = "auto"
    dtype: DType = "auto"


class Reward(Pool):
    """The frozen judge."""

    type: Literal["promptecho"] = "promptecho"
    model: str
    query: str = "Describe this image in detail."
    reduction: Literal["mean", "sum"] = "mean"
    transform: Literal["none", "exp"] = "none"
    include_eos: bool = False
    log_gain: bool = False
    device: Device = "auto"
    dtype: DType = "auto"
    chunk_tokens: Count = 4096


class Policy(Table):
    """The trained model: LoRA on a frozen base, its optimiser, and the ranks that share the work."""

    model: str
    ranks: Count = 1
    zero_stage: Literal[0, 1, 2, 3] = 2  # of DeepSpeed; 0: one rank of plain torch
    activation_checkpointing: bool = False
    max_sequence_length: Annotated[int, Field(ge=0)] = 256
    lora_rank: Count = 32
    lora_alpha: Annotated[float, Field(gt=0)] = 64.0
    lora_targets: Literal["attention", "all"] = "attention"
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = (
        1.0  # as a share of learning_rate, reached linearly at the last step
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    micro_batch: Count = 8  # samples of a rank per backward; gradients accumulate over a step
    device: Device = "auto"
    dtype: DType = "auto"
    num_cpus: Fraction = 1.0
    num_gpus: Fraction = 0.0
    resources: dict[str, float] = {}


class Awm(Table):
    """Advantage weighted matching (docs/objectives/awm.md)."""

    type: Literal["awm"] = "awm"
    advantage_std: Literal["none", "group", "global"] = "global"
    advantage_clip: Annotated[float, Field(gt=0)] = 5.0
    advantage_max: Annotated[float, Field(gt=0)] = 1.0
    weighting: Literal["uniform", "t", "t2", "huber", "ghuber", "elbo"] = "ghuber"
    ghuber_power: Annotated[float, Field(gt=0)] = 0.25
    clip_range: Annotated[float, Field(gt=0)] = 1.0
    ratio: Literal["exp_first", "sum_first"] = "exp_first"
    kl_reference: Annotated[float, Field(ge=0)] = 1e-3
    kl_ema: Annotated[float, Field(ge=0)] = 1.0
    ema_decay_rate: Annotated[float, Field(ge=0)] = 1e-3
    ema_decay_max: Annotated[float, Field(ge=0, le=1)] = 0.3
    timesteps: Literal["uniform", "logit_normal", "discrete", "discrete_wo_init", "discrete_with_init"] = (
        "discrete_wo_init"
    )
    timesteps_per_sample: Count = 6
    timestep_shift: Annotated[float, Field(gt=0)] = 3.0
    timestep_min: Annotated[float, Field(ge=0, lt=1)] = 0.2
    timestep_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    behaviour: Literal["current", "measured"] = "current"


class Heldout(Table):
    """Evaluation on prompts that training never sees. `checker` is "module:function"; its figures are shown and never trained on."""

    every: Count = 50
    images_per_category: Count = 100
    images_per_category_during: Count = 30
    chunk: Count = 5
    steps: Count = 16
    base_guidance_scales: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)  # at which the base is measured
    guidance_scales: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (
        1.0,
    )  # at which the result is; the first also on the way
    checker: str | None = None


class Autoscale(Table):
    """When pools grow and shrink by themselves, between their min and max (cluster/autoscale.py)."""

    enabled: bool = False
    queue_s: Seconds = 10.0
    grow_after_s: Seconds = 15.0
    shrink_after_s: Seconds = 60.0


class Cluster(Table):
    """How to reach or start Ray, and when a worker counts as lost.

    A task is late after deadline_factor times the longest of its kind so far, but not before deadline_floor_s; until one is
    measured, after task_timeout_s.
    """

    start_timeout_s: Seconds = 600.0
    task_timeout_s: Seconds = 1800.0
    deadline_floor_s: Seconds = 60.0
    deadline_factor: Annotated[float, Field(ge=1)] = 10.0
    heartbeat_s: Seconds = 10.0
    heartbeat_timeout_s: Seconds = 60.0
    autoscale: Autoscale = Autoscale()
    dashboard: bool = False
    object_store_mb: Annotated[int, Field(ge=75)] | None = None  # of a Ray that this run starts itself


class Recipe(Table):
    """One run, whole."""

    run: Run = Run()
    loop: LoopTable
    data: Data
    rollout: Rollout
    reward: Reward
    policy: Policy
    objective: Awm = Awm()
    heldout: Heldout = Heldout()
    cluster: Cluster = Cluster()

    @property
    def chunk(self) -> int:
        """Images per draw task."""
        return self.rollout.chunk or self.rollout.group_size

    @model_validator(mode="after")
    def check_across_tables(self) -> Recipe:
        """Raises ValueError for combinations that cannot run."""
        if self.rollout.group_size % self.chunk:
            raise ValueError(
                f"rollout.chunk = {self.chunk} does not divide rollout.group_size = {self.rollout.group_size}: "
                f"choose one of {[n for n in range(1, self.rollout.group_size + 1) if self.rollout.group_size % n == 0]}"
            )
        for name, pool in (("rollout", self.rollout), ("reward", self.reward)):
            if not pool.min <= pool.size <= (pool.max or pool.size):
                raise ValueError(
                    f"{name}.size = {pool.size} lies outside of {name}.min = {pool.min} and {name}.max = {pool.max}: "
                    "a pool begins with a size between them"
                )
        self._check_ranks()
        if self.reward.transform == "exp" and self.reward.reduction == "sum":
            raise ValueError(
                'reward.transform = "exp" of a sum is 0 for any real caption: use reward.reduction = "mean"'
            )
        wanted = sum(self.data.mix.values())
        if self.data.mix and wanted != self.rollout.prompts_per_step:
            raise ValueError(
                f"data.mix takes {wanted} prompts a step but rollout.prompts_per_step = {self.rollout.prompts_per_step}: make them equal"
            )
        if self.objective.timesteps.startswith("discrete"):
            usable = int(self.rollout.steps * self.objective.timestep_fraction)
            if self.objective.timesteps_per_sample > usable:
                raise ValueError(
                    f"objective.timesteps_per_sample = {self.objective.timesteps_per_sample} buckets need as many sampling steps, but "
                    f"rollout.steps * timestep_fraction leaves {usable}: lower the first or raise rollout.steps"
                )
        return self

    def _check_ranks(self) -> None:
        ranks, tasks = self.policy.ranks, self.rollout.prompts_per_step * self.rollout.group_size // self.chunk
        if self.policy.zero_stage == 0 and ranks > 1:
            raise ValueError(
                f"policy.ranks = {ranks} with policy.zero_stage = 0: stage 0 is one rank of plain torch; choose stage 1, 2 or 3"
            )
        if ranks > tasks:
            raise ValueError(
                f"policy.ranks = {ranks}, but a step has only {tasks} chunks to share among them: "
                "raise rollout.prompts_per_step or lower rollout.chunk"
            )
        if self.cluster.heartbeat_timeout_s <= self.cluster.heartbeat_s:
            raise ValueError(
                f"cluster.heartbeat_timeout_s = {self.cluster.heartbeat_timeout_s} must be above "
                f"cluster.heartbeat_s = {self.cluster.heartbeat_s}"
            )


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and applies `key.sub=value` overrides (values in TOML; a bare word is a string). Raises UserError."""
    if not path.is_file():
        raise UserError(f"no recipe at {path}: give the path of a TOML file, such as recipes/toy.toml")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        apply_override(tables, override)
    return parse_recipe(tables, source=str(path))


def parse_recipe(tables: dict[str, Any], source: str) -> Recipe:
    """Checks the tables of a recipe. Raises UserError that lists every problem, each with the nearest valid key."""
    try:
        return Recipe.model_validate(_lists_to_tuples(tables))
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in _explain(error))
        raise UserError(f"{source} cannot be run:\n{problems}") from error


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Sets one `key.sub=value` in the tables. Raises UserError if the text has no `=` or runs through a value that is no table."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override!r}: give key=value, such as --set rollout.size=2")
    *parents, leaf = key.strip().split(".")
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override!r}: {parent} is a value, not a table")
    table[leaf] = _parse_value(text.strip())


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML: every key that has a value, defaults included."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        location = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"{location}: no such key{_nearest(problem['loc'])}"
        elif problem["type"] == "missing":
            yield f"{location}: missing, and it has no default"
        elif problem["type"] == "value_error":
            yield f"{problem['ctx']['error']}"
        else:
            yield f"{location} = {problem['input']!r}: {problem['msg']}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """A hint that names the nearest valid key of the table that holds `location`, or lists all of them."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        model = _model_of(model.model_fields[str(part)].annotation)
    names = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; allowed are {', '.join(names)}"


def _model_of(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(model for model in map(_model_of, get_args(annotation)))
