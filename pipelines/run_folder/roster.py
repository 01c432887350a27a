"""The workers of a run: what each reported when it was ready, kept in workers.json, and whether all give the same bits."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.tasks import Introduction
from pipelines.run_folder.folder import RunFolder

KIND = ("gpu", "capability", "dtype", "torch", "cuda")  # what decides the bits of a forward pass on a GPU


class Roster:
    """The workers of this start, those that were replaced included. Workers that say nothing of a device are left out."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        """Whether the run promises to give the same bits again."""
        self.problem = ""
        """Why the workers so far would not, in words; empty if they do."""
        self._said: dict[str, dict[str, Any]] = {}

    def meet(self, introductions: list[Introduction]) -> None:
        """Takes in workers that have become ready."""
        self._said |= {one.worker: {"pool": one.pool, **one.said} for one in introductions if "device" in one.said}
        self.problem = self._mixed()

    def write(self, folder: RunFolder) -> None:
        """Into the run folder: workers.json."""
        folder.workers(self._said)

    def pools(self) -> dict[str, dict[str, Any]]:
        """Of each pool how many workers it had so far, and what the first of them said."""
        counts = Counter(said["pool"] for said in self._said.values())
        return {pool: {"count": counts[pool], **self._of(pool)[0]} for pool in counts}

    def __str__(self) -> str:
        """As a line."""
        return "workers: " + " · ".join(f"{pool} {device_words(said)}" for pool, said in self.pools().items())

    def _of(self, pool: str) -> list[dict[str, Any]]:
        return [said for said in self._said.values() if said["pool"] == pool]

    def _mixed(self) -> str:
        """What is to be said of the first pool whose workers compute on different GPUs; empty if there is none."""
        for pool in dict.fromkeys(said["pool"] for said in self._said.values()):
            kinds = Counter(tuple(said.get(key) for key in KIND) for said in self._of(pool) if "gpu" in said)
            if len(kinds) > 1:
                apart = [number for number in range(len(KIND)) if len({kind[number] for kind in kinds}) > 1]
                shown = ", ".join(
                    f"{count} x {' '.join(str(kind[number]) for number in apart)}" for kind, count in kinds.items()
                )
                return (
                    f"the workers of {pool} do not compute alike: {shown}. The same task gives other bits on each, so that a run in strict "
                    f"order could not be repeated: give {pool}.labels that only nodes of one kind have (docs/cluster.md), or take "
                    'loop.order = "ready" or run.deterministic = false'
                )
        return ""


def device_words(said: dict[str, Any]) -> str:
    """What a pool's workers compute on: 4 x NVIDIA H100 80GB HBM3, bfloat16, driver 580.65."""
    driver = said.get("driver") and f"driver {said['driver']}"
    what = filter(None, (said.get("gpu") or said.get("device", "?"), said.get("dtype"), driver))
    return f"{said.get('count', 1)} x {', '.join(what)}"
