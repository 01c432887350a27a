"""The tables of a recipe, key by key, with their types, bounds and defaults. Loads neither torch nor ray."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from actors.options import Count, Table
from actors.policy.objectives.options import ObjectiveOptions
from actors.policy.objectives.registry import OBJECTIVES
from cluster.storage import files


def _read_by(read: Callable[[str], str]) -> AfterValidator:
    """What `read` makes of a text; its ValueError becomes a message with the key and what was given."""

    def validate(text: str) -> str:
        try:
            return read(text)
        except ValueError as error:
            raise PydanticCustomError("place", "{why}", {"why": str(error)}) from error

    return AfterValidator(validate)


Place = Annotated[str, _read_by(files.resolved)]  # a path or a URL
PlaceOrNone = Annotated[str, _read_by(lambda text: text and files.resolved(text))]
Model = Annotated[str, _read_by(files.home_resolved)]  # a path, or a hub's name
Steps = Annotated[int, Field(ge=1, le=10**7)]
Fraction = Annotated[float, Field(ge=0, le=1e6)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=1e8)]  # three years: what clocks can still wait for
Beta = Annotated[float, Field(ge=0, lt=1)]
RAYS_OWN = {"CPU": "num_cpus", "GPU": "num_gpus"}  # resources that have a key of their own


def _custom(amounts: dict[str, float]) -> dict[str, float]:
    for name in amounts:
        if name in RAYS_OWN:
            raise PydanticCustomError("resource", "{key} says how many", {"key": RAYS_OWN[name]})
    return amounts


Resources = Annotated[dict[Annotated[str, Field(min_length=1)], Fraction], AfterValidator(_custom)]  # Ray's custom ones
Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16", "float16"]  # auto: bfloat16 on a GPU that has it, else float32


class Run(Table):
    """What names the run and makes it repeatable."""

    name: str = ""
    seed: int = 0
    threads: Threads = 1  # of torch, in every worker: part of what decides the bytes on a CPU
    deterministic: bool = True  # on a GPU, only algorithms that give the same bits again; false: the fastest
    notes: tuple[str, ...] = ()  # shown in summary.json and in the report


class LoopTable(Table):
    """The asynchronous loop."""

    steps: Steps
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
    checkpoints: PlaceOrNone = ""  # a folder or a URL such as s3://bucket/run; empty: checkpoints/ in the run folder


class Data(Table):
    """The prompt sets (docs/data.md), and how many prompts of each category a step takes (empty: as they come)."""

    train: Place  # a file or a folder of Parquet files, at a path or a URL
    heldout: PlaceOrNone | None = None
    caption: str = ""  # the field that holds the caption; empty: `caption`, or another common name
    mix: dict[str, Count] = Field(default_factory=dict)


class Pool(Table):
    """A pool of interchangeable workers; the resources are those of one worker."""

    size: Count = 1
    min: Count = 1
    max: Count | None = None
    num_cpus: Fraction = 1.0
    num_gpus: Fraction = 0.0
    resources: Resources = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)  # of the nodes that its workers may run on


class Rollout(Pool):
    """How images are drawn for training."""

    group_size: Annotated[int, Field(ge=2, le=10_000)] = 8
    prompts_per_step: Annotated[int, Field(ge=1, le=10**6)] = 8
    chunk: Count | None = None  # images of a group per task; None: a whole group
    groups_per_task: Count = 1  # whole groups that are drawn as one batch; it decides the bits
    steps: Count = 10
    noise: Literal["own", "group"] = "own"  # group: all images of a group start from the same noise
    guidance_scale: Fraction = 1.0
    height: Count = 512
    width: Count = 512
    device: Device = "auto"
    dtype: DType = "auto"
    compile: bool = False  # the blocks of the transformer, by torch.compile, on a GPU
    text_encoders: Literal["keep", "park"] = "keep"  # park: in the host's memory while nothing is encoded


class Reward(Pool):
    """The frozen judge."""

    type: Literal["promptecho"] = "promptecho"
    model: Model
    image_pixels: Count | None = None  # the VLM sees at most so many; None: what its own processor says
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

    model: Model
    ranks: Count = 1
    zero_stage: Literal[0, 1, 2, 3] = 1  # of DeepSpeed; 0: one rank of plain torch
    activation_checkpointing: bool = False
    compile: bool = False  # the blocks of the transformer, by torch.compile, on a GPU
    text_encoders: Literal["keep", "park"] = "keep"  # park: in the host's memory while nothing is encoded
    max_sequence_length: Annotated[int, Field(ge=0)] = 256
    init_adapter: Model = ""  # a LoRA to begin from (a file, a folder, a checkpoint, a run); empty: a new one
    lora_rank: Count = 32
    lora_alpha: Annotated[float, Field(gt=0, le=1e6)] = 64.0
    lora_targets: Literal["attention", "all"] = "attention"
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
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
    resources: Resources = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)  # of the nodes that its ranks may run on


def _objective_type(table: Any) -> str | None:
    """The type that a table names; None if it is no table, or the type no text."""
    found = table.get("type", "awm") if isinstance(table, dict) else getattr(table, "type", None)
    return found if isinstance(found, str) else None


if TYPE_CHECKING:
    Objective = ObjectiveOptions
else:
    Objective = Annotated[
        reduce(or_, (Annotated[options, Tag(name)] for name, options in OBJECTIVES.items())),
        Discriminator(_objective_type),
    ]


class Heldout(Table):
    """Evaluation on prompts that training never sees. `checker` is "module:function"; its figures are shown and never trained on."""

    every: Count = 50
    images_per_category: Count = 100
    images_per_category_during: Count = 30
    prompts: Count | None = (
        None  # so many prompts instead, whatever their categories (None, with images_per_prompt: all)
    )
    prompts_during: Count | None = None  # None: as many
    images_per_prompt: Count | None = None  # None, with prompts: chunk
    chunk: Count = 5  # images of a prompt per task
    groups_per_task: Count = 1  # prompts that are drawn as one batch
    steps: Count = 16
    base_guidance_scales: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)  # at which the base is measured
    guidance_scales: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (
        1.0,
    )  # at which the result is; the first also on the way
    checker: str | None = None

    @property
    def by_prompt(self) -> bool:
        """Whether prompts are counted, not images of categories."""
        return self.prompts is not None or self.images_per_prompt is not None

    @property
    def images_of_group(self) -> int:
        """Images of a held-out group: `chunk`, or as many as divide the images of a prompt."""
        if self.images_per_prompt is None:
            return self.chunk
        return max(n for n in range(1, min(self.chunk, self.images_per_prompt) + 1) if self.images_per_prompt % n == 0)

    @property
    def images_per_task(self) -> int:
        """Images per draw task."""
        return self.images_of_group * self.groups_per_task


class Samples(Table):
    """Training images that are kept, with their rewards, as Parquet (docs/cluster.md)."""

    every: Annotated[int, Field(ge=0)] = 0  # steps; 0: none are kept
    groups: Count | None = None  # of such a step, the first ones; None: all


class Monitor(Table):
    """Who watches the run beside metrics.jsonl and the Ray dashboard (docs/monitoring.md)."""

    tensorboard: bool = True  # events in the run folder
    wandb: str = ""  # a project of Weights & Biases; empty: none


class Autoscale(Table):
    """When pools grow and shrink by themselves, between their min and max (cluster/control/autoscale.py)."""

    enabled: bool = False
    queue_s: Seconds = 10.0
    grow_after_s: Seconds = 15.0
    shrink_after_s: Seconds = 60.0


class Cluster(Table):
    """How to reach or start Ray, and when a worker counts as lost.

    A task is late after deadline_factor times the longest of its kind so far, but not before deadline_floor_s; until one is
    measured, after task_timeout_s.
    """

    node_timeout_s: Fraction = 0.0  # how long to wait for nodes that are still missing; 0: not at all
    start_timeout_s: Seconds = 600.0
    task_timeout_s: Seconds = 1800.0
    deadline_floor_s: Seconds = 60.0
    deadline_factor: Annotated[float, Field(ge=1)] = 10.0
    heartbeat_s: Seconds = 10.0
    heartbeat_timeout_s: Seconds = 60.0
    autoscale: Autoscale = Autoscale()
    dashboard: bool = False
    object_store_mb: Annotated[int, Field(ge=75)] | None = None  # of a Ray that this run starts itself
