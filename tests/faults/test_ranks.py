"""A run that is stopped and goes on with another number of policy ranks: said, recorded, and the same training but for rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.faults_world import go_on, overrides
from pipelines.run_folder import RunFolder
from pipelines.train import main
from tests.faults.conftest import Start
from tests.faults.harness import QUICK, digest_of

STEPS = 12
LEARNING_RATE = 1e-3
# one rank takes all 8 samples of a step in one backward, of two each takes its 4: so sums round otherwise
LENGTH = {"loop__steps": STEPS, "policy__micro_batch": 8, "policy__learning_rate": LEARNING_RATE}
PLAIN = {"policy__ranks": 1, "policy__zero_stage": 0}
TWO_RANKS = {"policy__ranks": 2, "policy__zero_stage": 2}


@pytest.fixture(scope="module")
def untouched(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one rank of plain torch that nothing stops."""
    out = tmp_path_factory.mktemp("untouched") / "run"
    options = overrides(**{**QUICK, **LENGTH, **PLAIN})
    assert main([str(tiny_world), "--out", str(out), "--executor", "local", *options]) == 0
    return RunFolder(out)


def state_of(folder: RunFolder) -> dict[str, np.ndarray]:
    """The policy's state in the last checkpoint."""
    return load_file(folder.path / "checkpoints" / f"step-{STEPS:06d}" / "policy.safetensors")


@pytest.mark.parametrize(("first", "then"), [(PLAIN, TWO_RANKS), (TWO_RANKS, PLAIN)], ids=["1 to 2", "2 to 1"])
def test_a_run_goes_on_with_another_number_of_ranks(
    start: Start, untouched: RunFolder, first: dict[str, int], then: dict[str, int]
) -> None:
    run = start(**LENGTH, **first)
    run.reach(4)
    updating = run.catch("PolicyActor.update")
    run.interrupt()
    go_on(updating)
    assert run.end() == 130, run.output()
    before, stopped = run.folder.read_metrics(), run.steps()
    assert 4 < stopped < STEPS

    run = run.resume(*overrides(**then))
    digest = digest_of(run)
    summary, after, expected = run.folder.read_summary(), run.folder.read_metrics(), untouched.read_metrics()
    assert (digest, summary["digest_since"]) == (after[-1]["digest"], stopped)
    assert digest != expected[-1]["digest"]
    assert after[:stopped] == before
    (event,) = run.events("digest_anew")
    assert event.items() >= {"step": stopped, "was": _shape(first), **_shape(then)}.items()
    assert f"the digest starts anew after step {stopped}" in " ".join(run.output().split())

    # measured: rewards within 3e-5 (a pixel that rounds otherwise), the rest within a thousandth
    for ours, theirs in zip(after, expected, strict=True):
        assert ours["reward_mean"] == pytest.approx(theirs["reward_mean"], abs=2e-4)
        for figure in ("loss", "grad_norm"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=5e-3, abs=1e-12), (figure, ours["step"])
    # measured: a hundredth of a step; without AdamW's first moments it would be four steps, without the second ones two hundred
    ours, theirs = state_of(run.folder), state_of(untouched)
    assert ours.keys() == theirs.keys()
    for name in (name for name in theirs if name.startswith(("trained/", "ema/"))):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=0.1 * LEARNING_RATE, err_msg=name)


def _shape(settings: dict[str, int]) -> dict[str, int]:
    return {name.removeprefix("policy__"): value for name, value in settings.items()}
