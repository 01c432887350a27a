"""Signs that a run learns nothing, seen in its steps' records, and what to say of them."""

from __future__ import annotations

from pipelines.run_folder import events
from pipelines.run_folder.records import StepRecord

EQUAL_SHARE = 0.9  # of a step's groups
STEPS_IN_ROW = 3

ENOUGH_SHARE = 0.5  # of an adapter

EQUAL_GROUPS = (
    "{equal} of {groups} groups score alike, image by image, for {steps} steps in a row: they teach nothing. Either the judge does not see "
    "what differs, or all images of a group are the same (rollout.noise), or there is nothing left to learn"
)


ADAPTER_LOST = (
    "rounding leaves only {share:.0%} of the adapter in the weights that images are drawn with, {steps} steps in a row: the policy changes "
    'by less than their type can hold. A higher policy.learning_rate, a shorter policy.warmup_steps or rollout.dtype = "float32" helps'
)


class EqualGroups:
    """Warns once when nearly all groups of several steps in a row have equal rewards; again only after a step that had not."""

    event: type[events.Sign] = events.EqualGroups

    def __init__(self) -> None:
        self._steps = 0

    def step(self, record: StepRecord) -> str | None:
        """A step was trained; the warning, if it is due."""
        groups, equal = record.groups, record.equal_groups
        self._steps = self._steps + 1 if groups and equal >= EQUAL_SHARE * groups else 0
        if self._steps != STEPS_IN_ROW:
            return None
        return EQUAL_GROUPS.format(equal=equal, groups=groups, steps=STEPS_IN_ROW)


class AdapterLost:
    """Warns once when several steps in a row drew with weights in which rounding left less than half of the adapter."""

    event: type[events.Sign] = events.AdapterLost

    def __init__(self) -> None:
        self._steps = 0

    def step(self, record: StepRecord) -> str | None:
        """A step was trained; the warning, if it is due."""
        share = record.adapter_share
        self._steps = self._steps + 1 if share is not None and share < ENOUGH_SHARE else 0
        return ADAPTER_LOST.format(share=share, steps=STEPS_IN_ROW) if self._steps == STEPS_IN_ROW else None


SIGNS = EqualGroups, AdapterLost
