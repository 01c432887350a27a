"""What a run writes down as it goes on: a line of metrics.jsonl a step, one of heldout.jsonl an evaluation (docs/run_folder.md).

A figure that could not be measured is null in the file and None here; a key is missing where there was nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.run_folder.json_files import Damaged, readable_lines

Figure = float | None
Figures = Mapping[str, Figure]
Tag = Literal["before", "during", "after"]
R = TypeVar("R", bound="Row")


class Row(BaseModel):
    """A record, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def line(self) -> dict[str, Any]:
        """What is written of it: what was given when it was made."""
        return self.model_dump(exclude_unset=True)


class Spread(Row):
    """The seconds of a step's training tasks of a stage."""

    tasks: int
    """How many."""
    mean: float
    """Their mean."""
    std: float
    """Their standard deviation."""


class ChunkSpans(Row):
    """When a chunk was drawn and scored: begin and end, in seconds since the step's first draw began."""

    group: int
    """Its group's number in the step."""
    chunk: int
    """Which part of the group."""
    draw: tuple[float, float]
    """Being drawn."""
    score: tuple[float, float]
    """Being scored."""


class Timeline(Row):
    """When the chunks of a step were drawn, scored and trained."""

    chunks: list[ChunkSpans]
    """The first ones, in order."""
    left_out: int = 0
    """How many more there were."""
    update: tuple[float, float]
    """Begin and end of the update."""


class StepRecord(Row):
    """A trained step. Its further keys are the figures of the objective and of the judge (docs/monitoring.md)."""

    model_config = ConfigDict(extra="allow")

    step: int
    """Which, from 1."""
    policy_version: int | None = None
    """The one that the step made."""
    staleness: list[int] = []
    """Of each group: versions between the one that drew it and the newest when it was trained."""
    staleness_mean: Figure = None
    """Their mean."""
    staleness_max: int | None = None
    """The most."""
    groups: int = 0
    """Trained on."""
    images: int = 0
    """Trained on."""
    reward_mean: Figure = None
    """Over the step's images."""
    rewards: Figures = {}
    """The mean of each of several rewards over the step's images, by its name; reward_mean is of what they make together."""
    reward_std: Figure = None
    """Over the step's images."""
    reward_std_in_group: Figure = None
    """Within a group, mean over the groups."""
    equal_groups: int = 0
    """Groups whose images all score alike."""
    distinct_in_group: Figure = None
    """Different rewards within a group, mean over the groups."""
    advantage_mean: Figure = None
    """Over the step's images."""
    advantage_std: Figure = None
    """Over the step's images."""
    by_category: Figures = {}
    """The mean reward of each category's groups."""
    seconds: dict[str, float] = {}
    """step: from the step before to this one; draw, score, update: of all tasks, summed; export, load: of the adapter."""
    tasks: dict[str, int] = {}
    """How many tasks of each stage ended, evaluation included."""
    queue_s: dict[str, float] = {}
    """How long a chunk waited to be scored, and a complete step to be trained, mean."""
    train_tasks: dict[str, Spread] = {}
    """The training tasks of each stage, and of several rewards those of each pool."""
    busy: dict[str, float] = {}
    """Share of the step in which the workers of each pool had work."""
    workers: dict[str, int] = {}
    """Ready ones of each pool, at the end."""
    bytes_in_flight: int = 0
    """Of images and latents, at the end."""
    images_per_s: Figure = None
    """Images trained on, over `seconds.step`."""
    cut_captions: int = 0
    """Groups whose caption was cut to be drawn."""
    adapter_effect: Figure = None
    """How far the adapter moves the model from its base, measured by the worker that drew."""
    adapter_share: Figure = None
    """How much of the adapter rounding left in the weights of the worker that drew."""
    paused_s: Figure = None
    """Seconds in which no new group might be begun."""
    quarantined: int = 0
    """Groups given up, over the whole run."""
    retries: dict[str, int] = {}
    """Failed tasks by cause, since this start."""
    policy_restarts: int = 0
    """How often the policy was lost, since this start."""
    digest: str | None = None
    """Of the run up to here."""
    timeline: Timeline | None = None
    """Of steps 1, 2, 3, 10, 30, 100, 300 and so on."""

    def figure(self, name: str) -> Figure:
        """One of the keys that hold one number, the objective's and the judge's among them; None if it was not measured."""
        value: Figure = {**vars(self), **(self.model_extra or {})}.get(name)
        return value


class PromptFigures(Row):
    """A held-out prompt in an evaluation."""

    category: str
    """The prompt's."""
    images: int
    """Drawn of it."""
    reward: Figure
    """Their mean reward."""
    checks: Figures
    """The means of the checker's figures."""


class HeldoutRecord(Row):
    """An evaluation on held-out prompts at one guidance scale."""

    tag: Tag
    """before: of the base; after: of the result; during: on the way."""
    step: int
    """The policy version."""
    guidance: float = 1.0
    """The scale; 1 and below draw without guidance."""
    images: int | None = None
    """How many were judged."""
    reward: Figure = None
    """The mean over categories."""
    reward_by_category: Figures = {}
    """The mean of each category."""
    rewards: Figures = {}
    """Each of several rewards by its name, the mean over categories."""
    accuracy: Figure = None
    """The checker's figure of that name."""
    by_category: Figures = {}
    """The same, of each category."""
    checks: Figures = {}
    """The checker's figures, each the mean over categories."""
    checks_by_category: Mapping[str, Figures] = {}
    """Figure -> category -> mean."""
    by_prompt: dict[str, PromptFigures] | None = None
    """By the prompt's id; not for those on the way."""


def read_records(path: Path, kind: type[R]) -> list[R]:
    """The records of a .jsonl file. Raises Damaged, also for a line that is none of this kind."""
    records, problem = readable_records(path, kind)
    if problem:
        raise Damaged(path, problem)
    return records


def readable_records(path: Path, kind: type[R]) -> tuple[list[R], str]:
    """The records of a .jsonl file as far as they can be read, and what is wrong with the first line that cannot, if one is."""
    lines, problem = readable_lines(path)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(kind.model_validate(line))
        except ValidationError as error:
            found = error.errors()[0]
            problem = problem or f"in line {number}, {'.'.join(map(str, found['loc']))}: {found['msg']}"
    return records, problem
