"""What is written down of a draw or a score that failed, and of a group that is left out for it."""

from __future__ import annotations

from typing import Any

from cluster.tasks import Failure, Outcome
from pipelines.config import Recipe
from pipelines.evaluation import HeldoutPlan
from pipelines.loop_messages import Draw, Quarantined, Unit
from pipelines.requests import Group, group_samples, noise_seeds


def failure_record(outcome: Outcome, failure: Failure) -> dict[str, Any]:
    """Which task failed on which worker, and why. `together`: all groups of a batch that was drawn."""
    what: Draw | Unit = outcome.key[1]
    batch = what.batch if isinstance(what, Draw) else (what,)
    unit = batch[0]
    return {
        "task": outcome.key[0],
        "worker": outcome.worker,
        "purpose": unit.purpose,
        "step": unit.step,
        "group": unit.group,
        "chunk": unit.chunk,
        "together": [each.group for each in batch],
        "cause": failure.cause,
        "message": failure.message,
    }


def quarantine_record(recipe: Recipe, heldout: HeldoutPlan, group: Group, decision: Quarantined) -> dict[str, Any]:
    """All that is needed to draw and score the group by hand, and why the run could not."""
    return {
        "purpose": decision.purpose,
        "step": decision.step,
        "group": decision.group,
        "cause": decision.cause,
        "message": decision.message,
        "tries": decision.tries,
        "prompt_id": group.prompt.id,
        "caption": group.prompt.caption,
        "noise_seeds": noise_seeds(recipe, group, group_samples(recipe, heldout, group)),
        "policy_version": group.version,
    }
