"""What a recipe says of its pools reaches the workers' specs, and what a worker is given reaches its process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from actors import process
from cluster.tasks import PoolSpec
from pipelines.recipe.load import load_recipe
from pipelines.running.workers import in_one_process
from pipelines.train import main
from pipelines.training.pools import pool_specs

SHARES = {"rollout": 0.25, "reward": 0.5, "policy": 1.0}


class Prepared(Exception):
    """The process is prepared; no model need be loaded."""


@pytest.fixture
def specs(tiny_world: Path) -> dict[str, PoolSpec]:
    shares = [f"{pool}.num_gpus={share}" for pool, share in SHARES.items()]
    labels = [f'{pool}.labels={{room = "{pool}"}}' for pool in SHARES]
    return {spec.name: spec for spec in pool_specs(load_recipe(tiny_world, [*shares, *labels]))}


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The shares of a GPU's memory that torch is told to keep to, on a machine that seems to have one."""
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", told.append)
    return told


def test_every_pool_gets_its_gpus_and_its_labels(specs: dict[str, PoolSpec]) -> None:
    for pool, share in SHARES.items():
        assert specs[pool].num_gpus == share
        assert specs[pool].labels == {"room": pool}
    assert specs["storage"].labels == {}


@pytest.mark.parametrize(("pool", "told"), [("rollout", [0.25]), ("reward", [0.5]), ("policy", [])])
def test_a_worker_that_shares_a_gpu_keeps_to_its_share_of_the_memory(
    specs: dict[str, PoolSpec], limits: list[float], monkeypatch: pytest.MonkeyPatch, pool: str, told: list[float]
) -> None:
    spec = specs[pool]

    def prepare(*arguments: object) -> None:
        assert process.prepare(*arguments) == "auto"
        raise Prepared

    monkeypatch.setattr(sys.modules[spec.actor.__module__], "prepare", prepare)
    with pytest.raises(Prepared):
        spec.actor(**spec.kwargs, **({"rank": 0, "ranks": 1} if spec.gang else {}))
    assert limits == told


def test_workers_that_are_one_process_have_the_whole_gpu_together(specs: dict[str, PoolSpec]) -> None:
    shares = {pool: in_one_process(specs[pool]).kwargs["process"].gpu_share for pool in SHARES}
    assert shares == dict.fromkeys(SHARES, 1.0)
    assert in_one_process(specs["storage"]) == specs["storage"]


@pytest.mark.parametrize("wanted", [True, False])
def test_every_worker_is_told_whether_its_bits_must_be_the_same_again(tiny_world: Path, wanted: bool) -> None:
    told = [
        spec.kwargs["process"].deterministic
        for spec in pool_specs(load_recipe(tiny_world, [f"run.deterministic={str(wanted).lower()}"]))
        if spec.name in SHARES
    ]
    assert told == [wanted] * 3


def test_a_run_whose_worker_holds_a_gpu_and_sees_none_ends_with_one_sentence(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [str(tiny_world), "--executor", "local", "--set", "rollout.num_gpus=1.0"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "error a worker with num_gpus = 1 on " in told
    assert "set device" in told
    assert "Traceback" not in told
