"""Who computes a run stands in its folder, and GPUs that give other bits are no pool of a run that must be repeatable."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.tasks import Introduction
from pipelines.engine.steering import Control
from pipelines.recipe.errors import RunFailed
from pipelines.recipe.load import dump_recipe, load_recipe
from pipelines.recipe.tables import Autoscale
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.roster import Roster
from tests.support.plain_run import pools_in_no_time
from tests.support.plain_world import PlainRollout
from tests.support.runs import main_with

ACTORS = {"rollout-0": "rollout", "reward-0": "reward", "policy-0": "policy"}


def on(gpu: str | None, number: int, pool: str = "rollout") -> Introduction:
    said = {"device": "cuda:0", "gpu": gpu, "dtype": "bfloat16", "torch": "2.11"} if gpu else {"device": "cpu"}
    return Introduction(pool, f"{pool}-{number}", said)


@pytest.fixture
def recipe(plain_world: Path) -> Recipe:
    return load_recipe(plain_world)


def test_gpus_of_one_kind_are_no_problem_and_pools_may_have_different_ones(recipe: Recipe) -> None:
    roster = Roster(recipe.exact)
    roster.meet([on("H100", 0), on("H100", 1), on("A100", 0, "reward"), on(None, 0, "policy"), on(None, 1, "policy")])
    assert roster.problem == ""
    assert str(roster) == (
        "workers: rollout 2 x H100, bfloat16 · reward 1 x A100, bfloat16 · policy 2 x cpu"
    )  # fmt: skip


def test_different_gpus_in_a_pool_are_named_and_forbidden_only_where_bits_must_be_the_same_again(
    plain_world: Path,
) -> None:
    for override, exact in (("run.seed=1", True), ('loop.order="ready"', False), ("run.deterministic=false", False)):
        roster = Roster(load_recipe(plain_world, [override]).exact)
        roster.meet([on("H100", 0), on("H100", 1)])
        roster.meet([on("A100", 2)])
        assert "rollout do not compute alike: 2 x H100, 1 x A100" in roster.problem
        assert roster.exact == exact


@pytest.mark.parametrize("order", ["strict", "ready"])
def test_a_worker_that_joins_with_another_gpu_ends_a_run_that_must_be_repeatable_another_says_so_once(
    plain_world: Path, tmp_path: Path, order: str
) -> None:
    recipe = load_recipe(plain_world, [f'loop.order="{order}"'])
    folder = RunFolder.create(tmp_path / order, dump_recipe(recipe))
    joined, notes = [[on("H100", 0)], [on("A100", 1)], [on("A100", 2)]], []
    tickets = SimpleNamespace(executor=SimpleNamespace(introductions=lambda: joined.pop(0)))
    watchers = SimpleNamespace(note=notes.append)
    control = Control("run", SimpleNamespace(elastic={}), tickets, folder, watchers, Roster(recipe.exact), Autoscale())
    control.greet()
    with pytest.raises(RunFailed, match="1 x H100, 1 x A100") if order == "strict" else nullcontext():
        control.greet()
    control.greet()
    assert [line.kind for line in folder.read_events()] == ["mixed_gpus"]
    assert len(notes) == (order == "ready")
    assert len(json.loads((folder.path / "workers.json").read_text())) == 3


class Varied(PlainRollout):
    """Each worker says that its GPU is another."""

    number = 0

    def info(self) -> dict[str, Any]:
        Varied.number += 1
        return {**super().info(), "gpu": f"GPU {self.number}"}


def trained(plain_world: Path, out: Path, *more: str, actor: type = PlainRollout) -> int:
    settings = ["rollout.size=2", "loop.steps=1", "heldout.every=100", *more]
    overrides = [word for setting in settings for word in ("--set", setting)]
    return main_with("rollout", actor, pools_in_no_time)(
        [str(plain_world), "--out", str(out), "--executor", "local", *overrides]
    )


def test_the_run_folder_says_where_every_worker_ran_and_in_what(plain_world: Path, tmp_path: Path) -> None:
    assert trained(plain_world, tmp_path / "run") == 0
    said = json.loads((tmp_path / "run" / "workers.json").read_text())
    assert {name: one["pool"] for name, one in said.items()} == {**ACTORS, "rollout-1": "rollout"}
    assert all((one["device"], one["dtype"]) == ("cpu", "float32") and one["host"] for one in said.values())
    assert "rollout: 2 x cpu, float32" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_must_be_repeatable_does_not_begin_on_different_gpus_another_says_so(
    plain_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(plain_world, tmp_path / "refused", actor=Varied) == 2
    assert "rollout do not compute alike: 1 x GPU 1, 1 x GPU 2" in capsys.readouterr().err
    assert not (tmp_path / "refused" / "metrics.jsonl").exists()
    assert trained(plain_world, tmp_path / "warned", 'loop.order="ready"', actor=Varied) == 0
    events = (tmp_path / "warned" / "events.jsonl").read_text()
    assert events.count("mixed_gpus") == 1
