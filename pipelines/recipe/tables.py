"""The tables of recipes, key by key, with their types, bounds and defaults. Loads neither torch nor ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from actors.diffusion.options import ImageModelOptions
from actors.options import Change, Count, Input, Table, read_by
from actors.paths import home_resolved, located
from actors.policy.objectives.options import ObjectiveOptions
from actors.policy.objectives.registry import OBJECTIVES
from actors.policy.options import LearnerOptions
from cluster.control.autoscale import AutoscaleSettings
from cluster.storage import files
from cluster.tasks import HEARTBEAT_S, HEARTBEAT_TIMEOUT_S, START_TIMEOUT_S
from pipelines.recipe.choices import Chosen
from pipelines.recipe.defaults import LOST_RETRIES, MAX_FAILURES_IN_ROW, RETRIES


def _source(text: str) -> str:
    return files.resolved(located(home_resolved(text)))


Source = Annotated[str, read_by(_source), Input()]
"""A path, which leads from the current folder, else from the repository's root; or a URL."""
SourceOrNone = Annotated[str, read_by(lambda text: text and _source(text))]
"""Such a place; or empty."""
Place = Annotated[str, read_by(lambda text: text and files.resolved(home_resolved(text)))]
"""A path or a URL that a run writes to; or empty."""
Steps = Annotated[int, Field(ge=1, le=10**7)]
Fraction = Annotated[float, Field(ge=0, le=1e6)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=1e8)]  # three years: what clocks can still wait for
RAYS_OWN = {"CPU": "num_cpus", "GPU": "num_gpus"}  # resources that have a key of their own


def _custom(amounts: dict[str, float]) -> dict[str, float]:
    for name in amounts:
        if name in RAYS_OWN:
            raise PydanticCustomError("resource", "{key} says how many", {"key": RAYS_OWN[name]})
    return amounts


Resources = Annotated[dict[Annotated[str, Field(min_length=1)], Fraction], AfterValidator(_custom)]


class Run(Table):
    """What names the run and makes it repeatable."""

    name: Annotated[str, Change.FREE] = ""
    """What people call it."""
    seed: int = 0
    """What all that is random is made from."""
    threads: Threads = 1
    """Of torch, in every worker: part of what decides the bytes on a CPU."""
    deterministic: Annotated[bool, Change.RECORDED] = True
    """On a GPU, only algorithms that give the same bits again; false: the fastest."""
    notes: Annotated[tuple[str, ...], Change.FREE] = ()
    """Shown in summary.json and in the report."""


class LoopTable(Table):
    """The asynchronous loop."""

    steps: Annotated[Steps, Change.RECORDED]
    """Updates of the policy."""
    staleness: Annotated[int, Field(ge=0)] = 1
    """How many versions the policy that draws may be behind the one that is trained."""
    order: Literal["strict", "ready"] = "strict"
    """`ready`: a step takes the groups that are there first, and the run cannot be repeated."""
    retries: Annotated[int, Field(ge=0), Change.FREE] = RETRIES
    """Of a task that raised."""
    lost_retries: Annotated[int, Field(ge=0), Change.FREE] = LOST_RETRIES
    """Of a task whose worker or payload was lost."""
    max_failures_in_row: Annotated[Count, Change.FREE] = MAX_FAILURES_IN_ROW
    """Quarantined groups, or restarts of the policy without a new step, after which the run ends."""
    max_groups_in_flight: Annotated[Count | None, Change.FREE] = None
    """Groups that are drawn or scored at a time; none given: as many as staleness allows."""
    max_bytes_in_flight: Annotated[Count | None, Change.FREE] = None
    """Bytes of images and latents that wait; none given: a share of Ray's object store."""
    checkpoint_every: Annotated[Count, Change.FREE] = 50
    """Steps."""
    keep_checkpoints: Annotated[Count, Change.FREE] = 2
    """The newest ones."""
    keep_best: Annotated[bool, Change.FREE] = True
    """And the one with the best held-out figure."""
    checkpoints: Annotated[Place, Change.FREE] = ""
    """A folder or a URL such as s3://bucket/run; empty: checkpoints/ in the run folder."""


class Data(Table):
    """The prompt sets (docs/data.md), and how many prompts of each category a step takes."""

    train: Annotated[Source, Change.BY_CONTENT]
    """A file or a folder of Parquet files, at a path or a URL."""
    heldout: Annotated[SourceOrNone | None, Input(), Change.BY_CONTENT, Change.EVALUATED] = None
    """The same, for evaluations."""
    caption: Annotated[str, Change.FREE] = ""
    """The field that holds the caption; empty: `caption`, or another common name."""
    mix: dict[str, Count] = Field(default_factory=dict)
    """How many prompts of each category a step takes; empty: as they come."""


class Worker(Table):
    """What a worker needs of a node."""

    num_cpus: Annotated[Fraction, Change.FREE] = 1.0
    """CPU cores."""
    num_gpus: Annotated[Fraction, Change.FREE] = 0.0
    """GPUs; workers that have a fraction share one."""
    resources: Annotated[Resources, Change.FREE] = Field(default_factory=dict)
    """Ray's custom resources, by name."""
    labels: Annotated[dict[str, str], Change.FREE] = Field(default_factory=dict)
    """Of the nodes that it may run on."""


class Pool(Worker):
    """A pool of interchangeable workers; the resources are those of one worker."""

    size: Annotated[Count, Change.FREE] = 1
    """Workers at the start."""
    min: Annotated[Count, Change.FREE] = 1
    """It never shrinks below."""
    max: Annotated[Count | None, Change.FREE] = None
    """It never grows above; none given: no limit."""


Noise = Literal["own", "group"]


class Rollout(Pool, ImageModelOptions):
    """How images are drawn for training."""

    group_size: Annotated[int, Field(ge=2, le=10_000)] = 8
    """Images of a prompt, whose rewards are compared."""
    prompts_per_step: Annotated[int, Field(ge=1, le=10**6)] = 8
    """Groups of an update."""
    chunk: Count | None = None
    """Images of a group per task; none given: a whole group."""
    groups_per_task: Count = 1
    """Whole groups that are drawn as one batch; it decides the bits."""
    steps: Count = 10
    """Of the sampler."""
    noise: Noise = "own"
    """`group`: all images of a group start from the same noise."""
    guidance_scale: Fraction = 1.0
    """As the model's diffusers pipeline means it."""
    height: Count = 512
    """Pixels."""
    width: Count = 512
    """Pixels."""

    @property
    def images_per_score(self) -> int:
        """Images of a group per task: a draw has those of `groups_per_task` groups, a score those of one."""
        return self.chunk or self.group_size

    @property
    def images_per_draw(self) -> int:
        """Images per draw task."""
        return self.images_per_score * self.groups_per_task

    @property
    def chunks_per_step(self) -> int:
        """Chunks of a step: the score tasks of a reward."""
        return self.prompts_per_step * self.group_size // self.images_per_score

    @property
    def draws_per_step(self) -> int:
        """Draw tasks of a step."""
        return -(-self.chunks_per_step // self.groups_per_task)


class Policy(LearnerOptions, Worker):
    """The trained model: LoRA on a frozen base, its optimiser, and the ranks that share the work."""

    ranks: Annotated[Count, Change.ANEW] = 1
    """Processes that share an update; the resources are those of one."""


if TYPE_CHECKING:
    Objective = ObjectiveOptions
else:
    Objective = Annotated[Any, Chosen("objective", OBJECTIVES, ObjectiveOptions, "awm")]


def _each_once(values: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(values)) < len(values):
        raise PydanticCustomError(
            "each_once", "a value stands there twice, and its images would count twice: give each once"
        )
    return values


EACH_ONCE = AfterValidator(_each_once)


class HeldoutDraws(Table):
    """What is drawn of held-out prompts, and who looks at it beside the rewards."""

    images_per_category: Count = 100
    """Of a whole evaluation: before the first step and after the last."""
    prompts: Count | None = None
    """So many prompts instead, whatever their categories; none given, with images_per_prompt: all."""
    images_per_prompt: Count | None = None
    """None given, with prompts: chunk."""
    chunk: Count = 5
    """Images of a prompt per task."""
    groups_per_task: Count = 1
    """Prompts that are drawn as one batch."""
    steps: Count = 16
    """Of the sampler."""
    guidance_scales: Annotated[tuple[Fraction, ...], Field(min_length=1), EACH_ONCE] = (1.0,)
    """At which the result is measured; the first also on the way."""
    checker: str | None = None
    """A function "package.module:function" whose figures are shown and never trained on."""

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


class Heldout(HeldoutDraws):
    """Evaluation on prompts that training never sees."""

    every: Count = 50
    """Steps."""
    images_per_category_during: Count = 30
    """On the way."""
    prompts_during: Count | None = None
    """On the way; none given: as many."""
    base_guidance_scales: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)
    """At which the base is measured."""


class Samples(Table):
    """Training images that are kept, with their rewards, as Parquet (docs/cluster.md)."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps; 0: none are kept."""
    groups: Count | None = None
    """Of such a step, the first ones; none given: all."""


class Monitor(Table):
    """Who watches the run beside metrics.jsonl and the Ray dashboard (docs/monitoring.md)."""

    tensorboard: bool = True
    """Events in the run folder."""
    wandb: str = ""
    """A project of Weights & Biases; empty: none."""


class Autoscale(Table):
    """When pools grow and shrink by themselves, between their min and max (cluster/control/autoscale.py)."""

    enabled: bool = False
    """Whether they do."""
    queue_s: Seconds = AutoscaleSettings.queue_s
    """Of work that may wait in a pool's queue."""
    grow_after_s: Seconds = AutoscaleSettings.grow_after_s
    """A pool grows when its queue was longer for so long."""
    shrink_after_s: Seconds = AutoscaleSettings.shrink_after_s
    """A pool shrinks when one worker less would have done for so long."""


class Cluster(Table):
    """How to reach or start Ray, and when a worker counts as lost.

    A task is late after deadline_factor times the longest of its kind so far, but not before deadline_floor_s; until one is
    measured, after task_timeout_s.
    """

    node_timeout_s: Fraction = 0.0
    """How long to wait for nodes that are still missing; 0: not at all."""
    start_timeout_s: Seconds = START_TIMEOUT_S
    """How long a worker may take to start."""
    task_timeout_s: Seconds = 1800.0
    """When a task is late of whose kind none is measured."""
    deadline_floor_s: Seconds = 60.0
    """No task is late before."""
    deadline_factor: Annotated[float, Field(ge=1)] = 10.0
    """A task is late after so many times the longest of its kind."""
    heartbeat_s: Seconds = HEARTBEAT_S
    """How often a worker says that it is alive."""
    heartbeat_timeout_s: Seconds = HEARTBEAT_TIMEOUT_S
    """After which silence a worker is lost."""
    autoscale: Autoscale = Autoscale()
    """When pools grow and shrink by themselves."""
    dashboard: bool = False
    """Whether a Ray that this run starts itself has one."""
    object_store_mb: Annotated[int, Field(ge=75)] | None = None
    """Of a Ray that this run starts itself; none given: Ray's choice."""
