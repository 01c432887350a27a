"""ZeRO against plain torch: one and two ranks, each stage, shares of any size, failures, and state that moves between all of them.

A gang of each kind lives once: it takes four steps, and what it kept after the second is what the tests of that kind go back to.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.flow_grpo_options import FlowGrpoOptions
from actors.policy.objectives.nft_options import NftOptions
from actors.policy.options import LearnerSettings
from tests.support.gang import NO_COMPILER, OBJECTIVE, Alone, Gang, Ranks, settings

ALONE, *GANGS = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]  # (ranks, stage)
CHECKPOINTED = [(2, 2), (2, 3)]
SHARES = {1: [(8,), (3,), (4,), (0,)], 2: [(5, 3), (3, 0), (1, 3), (0, 0)]}  # of each rank, in four steps
KEPT_AFTER, NEXT = 2, 3  # steps
CLIP = 1e-3
OVERFLOWING = AwmOptions(**{**OBJECTIVE, "kl_reference": 1e60})


def of_stage(case: tuple[int, int]) -> str:
    return "{} ranks, stage {}".format(*case)


@dataclass
class Life:
    """Ranks that took four steps: their settings, figures of each step, files of the second, the third's adapter, the last state."""

    ranks: Ranks
    learner: LearnerSettings
    figures: list[list[dict[str, float]]]
    files: dict[str, np.ndarray]
    sha256: str
    state: dict[str, np.ndarray]

    def go_back(self) -> None:
        assert self.ranks.go_back(self.learner, self.files) == KEPT_AFTER

    def update(self, step: int, **changes: Any) -> list[dict[str, float]]:
        """A step with the share of the third, whichever it is."""
        return self.ranks.update(step, SHARES[self.ranks.num_ranks][NEXT - 1], **changes)

    def goes_on_as_then(self) -> bool:
        """Whether the third step is once more, to the bit, what it was."""
        return self.update(NEXT) == self.figures[NEXT - 1] and self.ranks.sha256() == self.sha256


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


def live(ranks: Ranks, learner: LearnerSettings) -> Life:
    ranks.start(learner)
    figures, files, sha256 = [], {}, ""
    for step, counts in enumerate(SHARES[ranks.num_ranks], start=1):
        figures.append(ranks.update(step, counts))
        if step == KEPT_AFTER:
            files = ranks.snapshot()
        if step == NEXT:
            sha256 = ranks.sha256()
    return Life(ranks, learner, figures, files, sha256, ranks.state())


@pytest.fixture(scope="module")
def plain(tiny_sd3: str, alone: Alone) -> Life:
    """Plain torch on all samples, with a clipping that bites."""
    life = live(alone, settings(tiny_sd3, max_grad_norm=CLIP, micro_batch=4))
    assert all(of_rank["grad_norm"] > 2 * CLIP for [of_rank] in life.figures if of_rank["samples"])
    assert not torch.distributed.is_initialized()
    return life


@pytest.fixture(scope="module", params=[ALONE, *GANGS], ids=of_stage)
def life(request: pytest.FixtureRequest, gangs: dict[int, Gang], plain: Life) -> Life:
    """Of ranks of a kind."""
    ranks, stage = request.param
    if request.param == ALONE:
        return plain
    policy = {"zero_stage": stage, "activation_checkpointing": request.param in CHECKPOINTED}
    return live(gangs[ranks], replace(plain.learner, policy=plain.learner.policy.model_copy(update=policy)))


of_gangs = pytest.mark.parametrize("life", GANGS, ids=of_stage, indirect=True)


def assert_same_figures(figures: dict[str, float], expected: dict[str, float]) -> None:
    assert figures.keys() == expected.keys()
    for name in expected:
        assert figures[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def assert_same_state(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert state.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(state[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


def assert_continue_alike(first: Life, second: Life, step: int) -> None:
    assert_same_figures(first.update(step)[0], second.update(step)[0])
    assert_same_state(first.ranks.state(), second.ranks.state())


@of_gangs
def test_every_stage_trains_as_plain_torch(life: Life, plain: Life) -> None:
    for figures, [expected] in zip(life.figures, plain.figures, strict=True):
        assert all(of_rank == figures[0] for of_rank in figures)
        assert_same_figures(figures[0], expected)
    assert_same_state(life.state, plain.state)


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


def test_a_loss_that_is_no_number_stops_all_ranks_and_leaves_no_trace(life: Life) -> None:
    life.go_back()
    before = life.ranks.sha256()
    with pytest.raises(FloatingPointError, match="step 3: loss nan"):
        life.update(NEXT, advantage=math.nan)
    assert life.ranks.sha256() == before
    assert life.goes_on_as_then()


def test_a_gradient_that_is_no_number_stops_all_ranks_and_leaves_no_trace(life: Life) -> None:
    """The reference weighs so much that its gradient overflows since the adapter is not zero; the loss does not."""
    life.go_back()
    before = life.ranks.sha256()
    life.ranks.call("aim", OVERFLOWING)
    with pytest.raises(FloatingPointError, match=r"step 3: loss \d.*e\+\d+, gradient norm"):
        life.update(NEXT)
    life.ranks.call("aim", life.learner.objective)
    assert life.ranks.sha256() == before
    assert life.goes_on_as_then()


def test_restored_in_the_same_form_it_continues_to_the_bit(life: Life) -> None:
    life.ranks.start(life.learner)
    life.go_back()
    assert life.goes_on_as_then()


@of_gangs
def test_state_moves_between_ranks_and_plain_torch(life: Life, plain: Life) -> None:
    life.go_back()
    assert plain.ranks.go_back(plain.learner, life.files) == KEPT_AFTER
    assert_continue_alike(plain, life, NEXT)
    plain.update(4)
    assert life.ranks.go_back(life.learner, plain.ranks.snapshot()) == 4
    assert life.ranks.sha256() == plain.ranks.sha256()
    assert_continue_alike(plain, life, 5)


def test_a_state_from_before_the_first_step_can_be_loaded(gangs, alone, tiny_sd3):
    gang: Gang = gangs[2]
    alone.start(settings(tiny_sd3))
    gang.start(settings(tiny_sd3, zero_stage=2))
    assert_same_state(gang.state(), alone.state())
    assert gang.call("load", alone.snapshot()) == [0, 0]
    figures = [ranks.update(1, shares)[0] for ranks, shares in ((alone, (4,)), (gang, (1, 3)))]
    assert_same_figures(*figures)
    assert_same_state(gang.state(), alone.state())


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


def test_ranks_meet_without_a_compiler_and_keep_stdout_clean(gangs: dict[int, Gang], tiny_sd3: str) -> None:
    gangs[1].start(settings(tiny_sd3, zero_stage=2))
    for gang in gangs.values():
        for folder in gang.folders:
            assert (folder / "stdout").read_text() == ""
            assert NO_COMPILER not in (folder / "stderr").read_text()
            assert list((folder / "built").iterdir()) == []
