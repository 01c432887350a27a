"""A run that goes on with another number of policy ranks: said, recorded, and the same training but for rounding.

A rank of two dies, and one hangs: the ranks begin anew from the last checkpoint and replay, each step to the digest that it had.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.run_folder.folder import RunFolder
from pipelines.train import main
from tests.faults.conftest import Start
from tests.faults.harness import LOCAL, QUICK, digest_in, kill_then_hang
from tests.support.faults_world import overrides

STEPS, TO_TWO, TO_ONE = 14, 2, 10  # the last step, and those after which the number of ranks changes
LEARNING_RATE = 1e-3
# one rank takes all 8 samples of a step in one backward, of two each takes its 4: so sums round otherwise
TRAINING = {"policy__micro_batch": 8, "policy__learning_rate": LEARNING_RATE, "loop__checkpoint_every": 2}
PLAIN = {"policy__ranks": 1, "policy__zero_stage": 0}
TWO_RANKS = {"policy__ranks": 2, "policy__zero_stage": 2}
HEARD_OFTEN = {"cluster__heartbeat_s": 1.0, "cluster__heartbeat_timeout_s": 20.0}


def state_of(folder: RunFolder) -> dict[str, np.ndarray]:
    """The policy's state in the last checkpoint."""
    return load_file(folder.path / "checkpoints" / f"step-{STEPS:06d}" / "policy.safetensors")


def test_a_run_goes_on_with_two_ranks_of_which_one_is_killed_and_one_hangs_and_then_with_one_again(
    start_tiny: Start, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ranks need processes; what one rank of plain torch trains, before, after and untouched, it trains in this one."""

    def train_here(folder: RunFolder, steps: int, *more: str) -> None:
        options = overrides(**{**QUICK, **TRAINING, **PLAIN, "loop__steps": steps})
        assert main([str(tiny_world), "--out", str(folder.path), *LOCAL, *options, *more]) == 0

    ours, untouched = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "untouched")
    train_here(untouched, STEPS)
    train_here(ours, TO_TWO)
    of_one = ours.read_metrics()

    run = start_tiny(out=ours.path, resume=True, loop__steps=TO_ONE, **TRAINING, **TWO_RANKS, **HEARD_OFTEN)
    digest = kill_then_hang(run, "PolicyActor", after=(5, 7), noticed_by="heartbeat", every=2)
    of_two = ours.read_metrics()
    assert digest == of_two[-1].digest
    assert (of_two[:TO_TWO], ours.read_summary()["digest_since"]) == (of_one, TO_TWO)
    assert _said(TO_TWO) in " ".join(run.output().split())

    capsys.readouterr()
    train_here(ours, STEPS, "--resume")
    after, expected = ours.read_metrics(), untouched.read_metrics()
    assert digest_in(ours) == after[-1].digest
    assert (after[:TO_ONE], ours.read_summary()["digest_since"]) == (of_two, TO_ONE)
    assert _said(TO_ONE) in " ".join(capsys.readouterr().out.split())

    events = [line.fields for line in ours.read_events() if line.kind == "digest_anew"]
    shapes = [(event["step"], event["was"], {name: event[name] for name in event["was"]}) for event in events]
    assert shapes == [(TO_TWO, _shape(PLAIN), _shape(TWO_RANKS)), (TO_ONE, _shape(TWO_RANKS), _shape(PLAIN))]

    # measured: rewards within 3e-5 (a pixel that rounds otherwise), the rest within a thousandth
    for record, other in zip(after, expected, strict=True):
        assert record.reward_mean == pytest.approx(other.reward_mean, abs=2e-4)
        for figure in ("loss", "grad_norm"):
            assert record.figure(figure) == pytest.approx(other.figure(figure), rel=5e-3, abs=1e-12), (
                figure,
                record.step,
            )
    # measured: a hundredth of a step; without AdamW's first moments it would be four steps, without the second ones two hundred
    state, other_state = state_of(ours), state_of(untouched)
    assert state.keys() == other_state.keys()
    for name in (name for name in state if name.startswith(("trained/", "ema/"))):
        np.testing.assert_allclose(state[name], other_state[name], rtol=0, atol=0.1 * LEARNING_RATE, err_msg=name)


def _said(step: int) -> str:
    return f"the digest starts anew after step {step}"


def _shape(settings: dict[str, int]) -> dict[str, int]:
    return {name.removeprefix("policy__"): value for name, value in settings.items()}
