"""The kinds of events (event.py), one class each (docs/run_folder.md)."""

from __future__ import annotations

from typing import Any

from pipelines.run_folder.event import Event, Record

# a run begins and ends


class Started(Event):
    """A process began, or went on with, the run."""

    command: str
    """What to type to do the same."""
    host: str
    """The machine of the driver."""
    machine: str
    """Its system and cores."""
    git_revision: str | None
    """The commit of the code, "-dirty" if files differ from it; null outside of git."""
    versions: dict[str, str]
    """Of Python and the packages that compute."""
    workers: dict[str, Record]
    """By pool: how many workers it had, and what the first reported."""


class Resumed(Event):
    """The run goes on from a checkpoint."""

    step: int
    """The checkpoint's."""
    checkpoint: str
    """Its folder or URL."""


class RecipeChanged(Event):
    """A resume changed the recipe."""

    step: int
    """The last one with the earlier recipe."""
    changed: dict[str, tuple[Any, Any]]
    """Key path -> old and new value; null: it has none."""
    earlier: str
    """The file that keeps the earlier recipe."""


class Restored(Event):
    """Policy and records are as a checkpoint has them: at a resume, and after the policy was lost."""

    step: int
    """The checkpoint's."""
    checkpoint: str
    """Its folder or URL."""
    seconds: float
    """How long it took."""


class DigestAnew(Event):
    """The digest's chain begins anew, since the number of ranks or the ZeRO stage is another one."""

    step: int
    """The last one of the chain before."""
    was: dict[str, int]
    """Ranks and ZeRO stage so far."""
    ranks: int
    """Those from here on."""
    zero_stage: int
    """That from here on."""


class Stopped(Event):
    """The run was stopped before its first step."""

    message: str
    """When."""


class RunFailed(Event):
    """The run ended by an error."""

    message: str
    """The error."""


class ReportFailed(Event):
    """The run ended, but its report could not be written."""

    message: str
    """The error."""


# tasks and workers


class Failure(Event):
    """A task failed; it is tried again, unless a `quarantine` of its group follows."""

    task: str
    """What was called of it: draw, score, ..."""
    worker: str
    """Of whom."""
    purpose: str
    """What the group is for."""
    step: int
    """The group's step; of a held-out one the policy version that is evaluated."""
    group: int
    """Its number in the step."""
    chunk: int
    """Which part of the group."""
    together: list[int]
    """All groups that the task had."""
    cause: str
    """raised, worker_lost, deadline or object_lost."""
    message: str
    """The error."""


class Quarantine(Event):
    """A group was given up: nothing is trained on it, and it has no reward. What stands here draws and scores it by hand."""

    purpose: str
    """What the group is for."""
    step: int
    """Its step; of a held-out one the policy version that is evaluated."""
    group: int
    """Its number in the step."""
    cause: str
    """As in `failure`, of the last try."""
    message: str
    """The error of the last try."""
    tries: int
    """How often its worst chunk was tried."""
    prompt_id: str
    """The prompt's."""
    caption: str
    """The prompt."""
    noise_seeds: list[int]
    """Of each of its images."""
    policy_version: int
    """Which drew it."""


class PolicyLost(Event):
    """The policy's ranks were lost, or could not do what was asked."""

    doing: str
    """What was asked."""
    step: int
    """For which step."""
    cause: str
    """As in `failure`."""
    message: str
    """The error."""


class PolicyRestarted(Event):
    """The policy's ranks run again."""

    step: int
    """From which the run goes on."""


class PayloadsLost(Event):
    """Images or adapters are gone with their node: the open groups are drawn again."""

    step: int
    """The one that was to be trained."""
    message: str
    """What is gone."""


class MixedGpus(Event):
    """Workers of a pool compute on different GPUs."""

    message: str
    """Which."""


class Scaled(Event):
    """A pool has another size."""

    pool: str
    """Which."""
    by: str
    """command, or autoscaler."""
    from_: int
    """How many workers it had."""
    to: int
    """How many it has."""


class ScaleRefused(Event):
    """A pool was to have another size, and keeps its own."""

    pool: str
    """Which."""
    size: int
    """How many workers were wanted."""
    by: str
    """command, or autoscaler."""
    message: str
    """Why not."""


# what is kept


class Checkpoint(Event):
    """A checkpoint is whole."""

    step: int
    """Which."""
    path: str
    """Its folder or URL."""
    snapshot_s: float
    """Seconds for which the policy was held up."""
    bytes: int
    """Its size."""
    write_s: float
    """Seconds to write it, beside the training."""


class CheckpointFailed(Event):
    """A checkpoint was begun and is not there; the last whole one stays."""

    step: int
    """Which."""
    message: str
    """Why."""


class CheckpointDamaged(Event):
    """A checkpoint was passed over."""

    problem: str
    """Which, and what is wrong with it."""


class CheckpointsNotRemoved(Event):
    """Older checkpoints should have gone and stay, which does no harm."""

    step: int
    """Older than which."""
    message: str
    """Why."""


class Samples(Event):
    """The training images of a step are a file."""

    step: int
    """Which."""
    path: str
    """The file, or its URL."""
    images: int
    """How many."""
    bytes: int
    """Its size."""
    write_s: float
    """Seconds to write it."""


class SamplesFailed(Event):
    """The training images of a step could not be kept; the run goes on without them."""

    step: int
    """Which."""
    cause: str
    """As in `failure`."""
    message: str
    """The error."""


class NotExplained(Event):
    """The report lacks the tokens of a held-out group."""

    which: str
    """best, or worst."""
    group: int
    """Its number."""
    message: str
    """Why."""


class Mended(Event):
    """A damaged file of this folder was mended at a resume."""

    message: str
    """Which, and how."""


# who watches


class WatcherLost(Event):
    """Terminal, TensorBoard, Weights & Biases or Ray's metrics raised, and gets no more calls."""

    watcher: str
    """Which."""
    message: str
    """The error."""


class Sign(Event):
    """A sign that nothing is learned."""

    step: int
    """The last step that shows it."""
    message: str
    """What it means."""


class EqualGroups(Sign):
    """A sign that nothing is learned: nearly all groups score alike, image by image."""


class AdapterLost(Sign):
    """A sign that nothing is learned: rounding leaves less than half of the adapter in the weights that draw."""


KINDS: dict[str, type[Event]] = {
    one.kind: one for one in (*Event.__subclasses__(), *Sign.__subclasses__()) if one is not Sign
}
