"""What a run records and prints while it goes on: groups left out, evaluations, steps and their warnings."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.engine.messages import Quarantined
from pipelines.monitoring.signs import SIGNS
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.tables import Rollout
from pipelines.run_folder import events
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import HeldoutRecord, StepRecord
from pipelines.training.groups import Group, group_samples, noise_seeds
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.step_log import StepLog


class Books:
    """Writes to the run folder, and notifies the watchers. It decides nothing."""

    def __init__(
        self, seed: int, rollout: Rollout, heldout: HeldoutPlan, folder: RunFolder, log: StepLog, watchers: Watchers
    ) -> None:
        self.seed, self.rollout, self.heldout = seed, rollout, heldout
        self.folder, self.log, self.watchers = folder, log, watchers
        self.signs = [sign() for sign in SIGNS]

    def quarantine(self, group: Group, decision: Quarantined) -> None:
        """A group is left out."""
        self.log.quarantined += 1
        self.folder.event(quarantine_event(self.seed, self.rollout, self.heldout, group, decision))
        name = f"group {decision.key.group} of step {decision.key.step} ({group.prompt.caption[:60]})"
        self.watchers.note(f"quarantined {name}: {decision.message.strip().splitlines()[-1]}")

    def evaluation(self, records: Iterable[HeldoutRecord]) -> None:
        """An evaluation is over: its records, one per guidance scale."""
        for record in records:
            self.folder.heldout(record)
            self.watchers.heldout(record)

    def step(self, record: StepRecord) -> None:
        """A step was trained; warns if its record shows a problem."""
        self.folder.metric(record)
        self.watchers.step(record)
        for sign in self.signs:
            if warning := sign.step(record):
                self.folder.event(sign.event(step=record.step, message=warning))
                self.watchers.note(f"warning: {warning}")


def quarantine_event(
    seed: int, rollout: Rollout, heldout: HeldoutPlan, group: Group, decision: Quarantined
) -> events.Quarantine:
    """All that is needed to draw and score the group by hand, and why the run could not."""
    samples = group_samples(rollout.group_size, heldout, group)
    return events.Quarantine(
        purpose=decision.key.stream,
        step=decision.key.step,
        group=decision.key.group,
        cause=decision.cause,
        message=decision.message,
        tries=decision.tries,
        prompt_id=group.prompt.id,
        caption=group.prompt.caption,
        noise_seeds=list(noise_seeds(seed, rollout.noise, group, samples)),
        policy_version=group.version,
    )
