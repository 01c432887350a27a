"""Several groups in one draw: what shares a batch is decided by the recipe, and a fault changes nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.messages import Adapter, DrawRequest
from actors.rollout.actor import RolloutActor
from pipelines.data.prompts import load_prompts
from pipelines.recipe.load import load_recipe
from pipelines.training.heldout_plan import HeldoutPlan
from tests.support.runs import main_with

TOGETHER = (
    "rollout.chunk=4", "rollout.prompts_per_step=5", "rollout.groups_per_task=2", "heldout.groups_per_task=3", "heldout.chunk=1",
)  # fmt: skip
Drawn = list[tuple[DrawRequest, tuple]]
Train = Callable[..., tuple[Path, Drawn]]


class WatchedActor(RolloutActor):
    """Notes what it draws; `fails` says, by the number of the draw and the request, whether it raises instead."""

    drawn: Drawn
    fails: Callable[[int, DrawRequest], bool]

    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple:
        done = super().draw(request, adapter)
        self.drawn.append((request, done))
        if type(self).fails(len(self.drawn), request):
            raise RuntimeError("no luck")
        return done


@pytest.fixture
def train(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs the tiny recipe with groups that share draws; (its folder, what was drawn)."""

    def train(*settings: str, fails: Callable[[int, DrawRequest], bool] = lambda *_: False) -> tuple[Path, Drawn]:
        monkeypatch.setattr(WatchedActor, "drawn", [], raising=False)
        monkeypatch.setattr(WatchedActor, "fails", fails, raising=False)
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        options = [word for setting in (*TOGETHER, *settings) for word in ("--set", setting)]
        main = main_with("rollout", WatchedActor)
        assert main([str(tiny_world), "--out", str(out), "--executor", "local", *options]) == 0
        return out, WatchedActor.drawn

    return train


def summary_of(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


def test_what_shares_a_batch_does_not_depend_on_workers_or_faults(train: Train) -> None:
    calm, drawn = train()
    sizes = {(request.purpose, request.step, request.parts[0].group): len(request.parts) for request, _ in drawn}
    assert [sizes["train", step, group] for step in (1, 2, 3) for group in (0, 2, 4)] == [2, 2, 1] * 3
    assert [size for (purpose, *_), size in sizes.items() if purpose == "heldout"].count(3) > 2
    many, _ = train("rollout.size=3", "reward.size=2")
    shaken, again = train(fails=lambda number, _: number in (2, 7, 8, 15))
    assert len(again) == len(drawn) + 4
    for out in (many, shaken):
        assert summary_of(out)["digest"] == summary_of(calm)["digest"]
        assert summary_of(out)["heldout"]["after"] == summary_of(calm)["heldout"]["after"]


def test_images_of_a_batch_are_those_of_each_group_alone_but_for_rounding(train: Train) -> None:
    settings = ("loop.steps=1", "heldout.every=9")
    _, together = train(*settings)
    _, alone = train(*settings, "rollout.groups_per_task=1", "heldout.groups_per_task=1")

    def images(drawn: Drawn) -> dict[tuple, np.ndarray]:
        return {
            (request.purpose, request.guidance_scale, part.noise_seeds): images
            for request, (_, *payloads) in drawn
            if request.policy_version == 0
            for part, images in zip(request.parts, payloads[::2], strict=True)
        }

    ours, theirs = images(together), images(alone)
    assert ours.keys() == theirs.keys()
    assert max(np.abs(ours[key].astype(int) - theirs[key]).max() for key in ours) <= 1


def test_a_group_that_nobody_can_draw_takes_no_other_with_it(train: Train) -> None:
    out, drawn = train(
        "loop.retries=1",
        "loop.steps=2",
        fails=lambda _, request: any("blue square" in part.caption for part in request.parts),
    )
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    given_up = {event["caption"] for event in events if event["kind"] == "quarantine"}
    assert given_up == {"a blue square"}
    asked = {(request.step, part.group) for request, _ in drawn for part in request.parts if request.purpose == "train"}
    groups = [json.loads(line)["groups"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum(groups) == len(asked) - sum(event["kind"] == "quarantine" for event in events)


def test_heldout_groups_of_two_guidance_scales_share_no_batch(tiny_world: Path) -> None:
    recipe = load_recipe(tiny_world, [*TOGETHER, "heldout.images_per_category=4"])
    plan = HeldoutPlan(load_prompts(recipe.data.heldout, "data.heldout"), recipe.heldout, recipe.loop.steps)
    assert len(plan.groups(0)) == 2 * 8
    assert plan.tasks(0) == (3, 3, 2, 3, 3, 2)
