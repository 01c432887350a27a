"""What a run shows of itself: held-out figures, sample grids, and how well each word of a caption was echoed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from actors.messages import Prompt, TokenLogProbs
from actors.reward.actor import RewardActor
from cluster.tasks import Outcome, PayloadLostError
from pipelines.engine.messages import Unit
from pipelines.engine.tickets import Tickets
from pipelines.run_folder.events import NotExplained
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.pictures import Pictures
from pipelines.run_folder.records import HeldoutRecord
from pipelines.training.heldout_plan import HeldoutPlan, Judged, Tally, extremes

EXPLAINED = 3
EXPLAIN_RETRIES = 5  # after lost workers, of each


class Showcase:
    """Gathers the scored held-out groups of each evaluation and writes what is to be looked at.

    `explaining`: the pool of a reward that can explain.
    """

    def __init__(
        self,
        plan: HeldoutPlan,
        folder: RunFolder,
        pictures: Pictures,
        tickets: Tickets,
        explaining: str | None,
    ) -> None:
        self.explaining = explaining
        self.plan, self.folder, self.pictures = plan, folder, pictures
        self.tickets, self.fetch = tickets, tickets.executor.fetch
        self.waiting = 0
        self._tallies: dict[tuple[int, float], Tally] = defaultdict(Tally)
        self._images: dict[int, dict[int, tuple[str, np.ndarray]]] = defaultdict(dict)  # of the groups in the grid
        self._scored: list[tuple[float, int]] = []  # (mean reward, group) of the last evaluation
        self._held: dict[int, tuple[Prompt, Any, Sequence[float]]] = {}
        self._tokens: list[dict[str, Any]] = []

    def add(self, unit: Unit, judged: Judged, images: Any) -> None:
        """A held-out group was judged; `images` is a handle, its prompt has the caption that was drawn.

        Raises PayloadLostError, before anything is counted, if what is to be looked at is gone.
        """
        prompt = judged.prompt
        if unit.group in self.plan.shown(unit.step):
            self._images[unit.step][unit.group] = (prompt.caption, self.fetch(images))
        scale = self.plan.groups(unit.step)[unit.group].guidance_scale
        self._tallies[unit.step, scale].groups[unit.group] = judged
        if self.explaining and self.plan.tag(unit.step) == "after" and scale == self.plan.settings.guidance_scales[0]:
            self._hold_extremes(unit.group, judged, images)

    def finish(self, version: int) -> list[HeldoutRecord]:
        """The records of an evaluation, one per guidance scale. Writes its grid; after the last one asks for the tokens' log-probs."""
        tag = self.plan.tag(version)
        shown = self._images.pop(version, {})
        if shown:
            self.pictures.draw(f"{tag}-{version:06d}", [shown[group] for group in sorted(shown)])
        keys = sorted(key for key in self._tallies if key[0] == version)
        records = [self._tallies.pop(key).record(tag, *key, with_prompts=tag != "during") for key in keys]
        if tag == "after":
            self._explain_extremes()
        return records

    def _explained(self, which: str, group: int, outcome: Outcome) -> None:
        """The tokens' log-probs of a group came back. What is missing is left out of the report, with a note."""
        self.waiting -= 1
        try:
            if outcome.failure:
                raise PayloadLostError(outcome.failure.message)
            self._tokens.append(self._explanation(which, group, outcome.value))
        except PayloadLostError as error:
            self.folder.event(NotExplained(which=which, group=group, message=str(error)))
        if self.waiting == 0:
            self.folder.tokens(sorted(self._tokens, key=lambda record: (record["which"], sum(record["rewards_K"]))))

    def _explanation(self, which: str, group: int, tokens: TokenLogProbs) -> dict[str, Any]:
        prompt, images, rewards_K = self._held[group]
        picture = self.pictures.draw(f"tokens-{which}-{group}", [(prompt.caption, self.fetch(images))])
        return {
            "which": which,
            "step": self.plan.steps,
            "prompt_id": prompt.id,
            "caption": prompt.caption,
            "tokens": list(tokens.tokens),
            "log_probs_KT": tokens.log_probs_KT.tolist(),
            "rewards_K": list(rewards_K),
            "image": str(picture.relative_to(self.folder.path)),
        }

    def _hold_extremes(self, group: int, judged: Judged, images: Any) -> None:
        """Keeps the handles of the best and the worst groups so far, and of no others."""
        self._scored.append((float(np.mean(judged.rewards_K)), group))
        self._held[group] = (judged.prompt, images, judged.rewards_K)
        worst, best = extremes(self._scored, EXPLAINED)
        for dropped in self._held.keys() - {*worst, *best}:
            del self._held[dropped]

    def _explain_extremes(self) -> None:
        if self.explaining is None:
            return
        worst, best = extremes(self._scored, EXPLAINED)
        named = [("worst", group) for group in worst] + [("best", group) for group in best if group not in worst]
        for which, group in named:
            prompt, images, _ = self._held[group]
            self.waiting += 1
            then = partial(self._explained, which, group)
            self.tickets.call(
                self.explaining, RewardActor.explain, (prompt, images), then, (which, group), retries=EXPLAIN_RETRIES
            )
