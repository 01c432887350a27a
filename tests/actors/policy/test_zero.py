"""ZeRO against plain torch: one and two ranks, each stage, shares of any size, failures, and state that moves between all of them."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy.objectives.flow_grpo_options import FlowGrpoOptions
from actors.policy.objectives.nft_options import NftOptions
from tests.support.gang import Alone, Gang, Ranks, settings

GANGS = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
SHARES = {1: [(8,), (3,), (0,), (4,)], 2: [(5, 3), (3, 0), (0, 0), (1, 3)]}  # of each rank, in four steps
SHARE = {1: (4,), 2: (1, 3)}
CLIP = 1e-3


@pytest.fixture(scope="session")
def alone() -> Alone:
    return Alone()


@pytest.fixture(scope="module")
def expected(tiny_sd3: str, alone: Alone):
    """Figures of four steps of plain torch on all samples, with a clipping that bites, and the state after them."""
    alone.start(settings(tiny_sd3, max_grad_norm=CLIP))
    figures = [alone.update(step, (sum(SHARES[2][step - 1]),))[0] for step in (1, 2, 3, 4)]
    assert all(of_step["grad_norm"] > 2 * CLIP for of_step in figures if of_step["samples"])
    assert not torch.distributed.is_initialized()
    return figures, alone.state()


def assert_same_figures(figures: dict[str, float], expected: dict[str, float]) -> None:
    assert figures.keys() == expected.keys()
    for name in expected:
        assert figures[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def assert_same_state(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert state.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(state[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


def assert_continues_alike(first: Ranks, second: Ranks, step: int) -> None:
    [figures], [others] = (ranks.update(step, SHARE[ranks.num_ranks])[:1] for ranks in (first, second))
    assert_same_figures(figures, others)
    assert_same_state(first.state(), second.state())


@pytest.mark.parametrize(
    ("ranks", "stage", "activation_checkpointing"),
    [(ranks, stage, (ranks, stage) == (2, 3)) for ranks, stage in GANGS] + [(2, 2, True)],
)
def test_every_stage_trains_as_plain_torch(gangs, tiny_sd3, expected, ranks, stage, activation_checkpointing):
    gang, (figures, state) = gangs[ranks], expected
    policy = {"zero_stage": stage, "activation_checkpointing": activation_checkpointing}
    gang.start(settings(tiny_sd3, max_grad_norm=CLIP, **policy))
    for step, counts in enumerate(SHARES[ranks], start=1):
        of_ranks = gang.update(step, counts)
        assert all(of_rank == of_ranks[0] for of_rank in of_ranks)
        assert_same_figures(of_ranks[0], figures[step - 1])
    assert_same_state(gang.state(), state)
    assert gang.sha256()


@pytest.mark.parametrize(
    "objective",
    [
        FlowGrpoOptions(behaviour="current", window=2, step="cps"),
        NftOptions(timesteps="uniform", timesteps_per_sample=2),
    ],
    ids=lambda table: table.type,
)
def test_two_ranks_train_every_objective_as_plain_torch(gangs, alone, tiny_sd3, objective):
    gang, window = gangs[2], getattr(objective, "window", 0)
    changes = {"objective": objective}
    alone.start(replace(settings(tiny_sd3), **changes))
    gang.start(replace(settings(tiny_sd3, zero_stage=2), **changes))
    for step, counts in enumerate(SHARES[2], start=1):
        [expected], figures = (
            alone.update(step, (sum(counts),), window=window),
            gang.update(step, counts, window=window),
        )
        assert figures[0] == figures[1]
        assert_same_figures(figures[0], expected)
    assert_same_state(gang.state(), alone.state())


@pytest.mark.parametrize(("ranks", "stage"), [(1, 2), (2, 1), (2, 3)])
def test_a_loss_that_is_no_number_stops_all_ranks_and_leaves_no_trace(gangs, tiny_sd3, ranks, stage):
    gang, share = gangs[ranks], SHARE[ranks]
    gang.start(settings(tiny_sd3, zero_stage=stage))
    gang.update(1, share)
    files, before = gang.snapshot(), gang.sha256()
    with pytest.raises(FloatingPointError, match="step 2: loss nan"):
        gang.update(2, share, advantage=math.nan)
    assert gang.sha256() == before
    gang.update(2, share)
    after = gang.sha256()
    gang.call("load", files)
    gang.update(2, share)
    assert gang.sha256() == after != before


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (1, 2), (2, 1), (2, 3)])
def test_a_gradient_that_is_no_number_stops_all_ranks(gangs, alone, tiny_sd3, ranks, stage):
    """The reference weighs so much that its gradient overflows as soon as the adapter is not zero; the loss does not."""
    gang = gangs[ranks] if stage else alone
    gang.start(settings(tiny_sd3, {"kl_reference": 1e60}, zero_stage=stage))
    gang.update(1, SHARE[ranks])
    before = gang.sha256()
    with pytest.raises(FloatingPointError, match=r"step 2: loss \d.*e\+\d+, gradient norm"):
        gang.update(2, SHARE[ranks])
    assert gang.sha256() == before


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (1, 2), (2, 1), (2, 2), (2, 3)])
def test_restored_in_the_same_form_it_continues_to_the_bit(gangs, alone, tiny_sd3, ranks, stage):
    gang = gangs[ranks] if stage else alone
    learner = settings(tiny_sd3, zero_stage=stage)
    gang.start(learner)
    for step in (1, 2):
        gang.update(step, SHARE[ranks])
    files = gang.snapshot()
    figures, sha256 = gang.update(3, SHARE[ranks]), gang.sha256()
    gang.start(learner)
    assert gang.call("load", files) == [2] * ranks
    assert gang.update(3, SHARE[ranks]) == figures
    assert gang.sha256() == sha256


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 2), (2, 3)])
def test_state_moves_between_ranks_and_plain_torch(gangs, alone, tiny_sd3, ranks, stage):
    gang = gangs[ranks]
    alone.start(settings(tiny_sd3))
    gang.start(settings(tiny_sd3, zero_stage=stage))
    for step in (1, 2):
        gang.update(step, SHARE[ranks])
    assert alone.call("load", gang.snapshot()) == [2]
    assert_continues_alike(alone, gang, 3)
    alone.update(4, (2,))
    gang.start(settings(tiny_sd3, zero_stage=stage))
    assert gang.call("load", alone.snapshot()) == [4] * ranks
    assert gang.sha256() == alone.sha256()
    assert_continues_alike(alone, gang, 5)


def test_a_state_from_before_the_first_step_can_be_loaded(gangs, alone, tiny_sd3):
    gang: Gang = gangs[2]
    alone.start(settings(tiny_sd3))
    gang.start(settings(tiny_sd3, zero_stage=2))
    assert_same_state(gang.state(), alone.state())
    assert gang.call("load", alone.snapshot()) == [0, 0]
    assert_continues_alike(alone, gang, 1)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_in_bfloat16_it_trains_nearly_as_in_float32(gangs, alone, tiny_sd3, stage):
    alone.start(settings(tiny_sd3))
    figures = [alone.update(step, (6,))[0] for step in (1, 2)]
    expected = alone.state()
    low: Ranks = gangs[1] if stage else alone
    low.start(settings(tiny_sd3, zero_stage=stage, dtype="bfloat16"))
    assert low.call("info")[0]["dtype"] == "bfloat16"
    for step in (1, 2):
        of_step = low.update(step, (6,))[0]
        for name in ("loss", "grad_norm"):
            assert of_step[name] == pytest.approx(figures[step - 1][name], rel=0.02)
    state = low.state()
    assert all(array.dtype == np.float32 for name, array in state.items() if "/" in name)
    for kind in ("trained", "exp_avg"):
        whole, other = (
            np.concatenate([s[name].ravel() for name in expected if name.startswith(kind)]) for s in (expected, state)
        )
        assert np.linalg.norm(whole - other) < 0.05 * np.linalg.norm(whole), kind


def test_ranks_meet_without_a_compiler_and_keep_stdout_clean(tiny_sd3: str, tmp_path: Path) -> None:
    source = (
        "import sys; from actors.policy.actor import PolicyActor; from actors.process import Process; "
        "from tests.support.gang import settings; "
        "actor = PolicyActor(0, 1, Process(1), settings(sys.argv[1], zero_stage=2)); "
        "actor.join(actor.address())"
    )
    command = [sys.executable, "-c", source, tiny_sd3]
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "no-such-compiler" not in done.stderr
    assert list(tmp_path.iterdir()) == []
