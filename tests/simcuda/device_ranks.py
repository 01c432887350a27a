"""The engines of ZeRO on the device, as the only rank: they train, and go on from what another stage kept.

NCCL's place is taken by gloo. DeepSpeed changes torch for the whole process, so nothing else is tested after these.
"""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from actors.policy import zero
from actors.policy.actor import PolicyActor
from actors.process import Process
from bench.zero import Case, work
from tests.support.gang import samples, settings
from toy.random_models.sd3 import make_tiny_sd3

STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero, "PERSISTENT_NUMEL", 100)  # so that in stage 3 the matrices of a tiny model are shared out
        yield str(make_tiny_sd3(tmp_path_factory.mktemp("sd3")))


def rank_of(model: str, stage: int) -> PolicyActor:
    given = settings(
        model, zero_stage=stage, device="cuda", dtype="auto", text_encoders="park", activation_checkpointing=True
    )
    actor = PolicyActor(0, 1, Process(1, 1.0), given)
    actor.join(actor.meeting.open("127.0.0.1") if stage else "")
    return actor


def update(actor: PolicyActor, step: int) -> dict[str, float]:
    [share] = samples(step, [3])  # two micro-batches
    return actor.update(step, *share)


@pytest.fixture(scope="module")
def kept(model: str) -> dict[str, np.ndarray]:
    """What plain torch kept after an update, and what it came to in the next one."""
    actor = rank_of(model, 0)
    update(actor, 1)
    files = actor.snapshot()[1]
    update(actor, 2)
    return {"files": files, "tensors": actor.export(2)[1].tensors}  # type: ignore[dict-item]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_and_goes_on_from_what_plain_torch_kept(model: str, stage: int, kept: dict):
    actor = rank_of(model, stage)
    assert actor.learner.engine.rank == 0
    assert actor.learner.engine.transformer.dtype == torch.bfloat16
    assert {tensor.device.type for tensor in actor.learner.engine.trained.values()} == {"cuda"}
    for step in (1, 2):
        assert update(actor, step)["grad_norm"] > 0
    assert actor.load(kept["files"]) == 1
    update(actor, 2)
    for name, tensor in actor.export(2)[1].tensors.items():
        np.testing.assert_allclose(tensor, kept["tensors"][name], rtol=0.1, atol=1e-3)


def test_the_bench_times_a_rank(model: str):
    """What `python -m bench.zero --device cuda` starts as a process for each rank, in this one."""
    case = Case(model, (4, 8, 8), 32, samples=2, micro_batch=1)
    ours, theirs = Pipe()
    told: list[Any] = []

    def attend() -> None:
        ours.send(ours.recv())  # where the ranks meet
        told.append(ours.recv())
        ours.send("end")

    bench = Thread(target=attend)
    bench.start()
    work(theirs, case, case.settings(Path(model), "cuda", 1), rank=0, ranks=1, updates=1, threads=1)
    theirs.close()  # a rank that fails has nothing to tell
    bench.join()
    [result] = told
    assert len(result["seconds"]) == 1
    assert result["peak_mb"] >= 0
