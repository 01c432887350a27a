"""The plain world is honest: what it trains depends on every chunk and every adapter, and on nothing else, so its digest is a proof."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.messages import Adapter, DrawRequest, Latents, UpdateGroup, sha256_of
from actors.policy import checkpoint
from pipelines.run_folder.folder import RunFolder
from tests.faults.conftest import Reference
from tests.faults.harness import LOCAL, PLAIN, QUICK, digest_in
from tests.support import plain_world as plain
from tests.support.faults_world import ROOT, overrides
from tests.support.gang import settings
from tests.support.plain_run import pools_in_no_time
from tests.support.runs import main_with

LENGTH = {"loop__steps": 6}
AT = 3  # the step at which something goes wrong


class DroppingPolicy(plain.PlainPolicy):
    """Does not hear of one chunk."""

    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        first = int(step == AT)
        return super().update(step, groups[first:], *chunks[first:])


class DoublingPolicy(plain.PlainPolicy):
    """Trains on one chunk twice."""

    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        more = int(step == AT)
        return super().update(step, (*groups, *groups[:more]), *chunks, *chunks[:more])


class ReorderingPolicy(plain.PlainPolicy):
    """Trains on the chunks of one step the other way round."""

    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        way = -1 if step == AT else 1
        return super().update(step, groups[::way], *chunks[::way])


class ForgetfulPolicy(plain.PlainPolicy):
    """Loses one moment after a step."""

    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        figures = super().update(step, groups, *chunks)
        if step == AT:
            self.moments[f"mean/{plain.UP}"][0, 0] = 0
        return figures


class StrayRollout(plain.PlainRollout):
    """Draws the images of one step by other weights than it says."""

    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple:
        if (request.purpose, request.step) != ("train", AT):
            return super().draw(request, adapter)
        tensors = {name: tensor * np.float32(1.001) for name, tensor in adapter.tensors.items()}
        other = replace(adapter, tensors=tensors, sha256=sha256_of(tensors))
        reports, *payloads = super().draw(replace(request, adapter_sha256=other.sha256), other)
        return tuple(replace(report, adapter_sha256=adapter.sha256) for report in reports), *payloads


@pytest.mark.parametrize("actor", [DroppingPolicy, DoublingPolicy, ReorderingPolicy, ForgetfulPolicy, StrayRollout])
def test_what_goes_wrong_at_one_step_changes_the_digest_from_then_on(
    plain_world: Path, tmp_path: Path, reference: Reference, actor: type
) -> None:
    pool = "rollout" if issubclass(actor, plain.PlainRollout) else "policy"
    run = main_with(pool, actor, pools_in_no_time)
    options = overrides(**{**QUICK, **LENGTH})
    assert run([str(plain_world), "--out", str(tmp_path / "run"), *LOCAL, *options]) == 0
    folder = RunFolder(tmp_path / "run")
    assert digest_in(folder) != reference(**LENGTH)
    first_wrong = AT + (actor is ForgetfulPolicy)
    assert folder.read_metrics()[first_wrong - 2].digest == reference(loop__steps=first_wrong - 1)
    assert folder.read_metrics()[first_wrong - 1].digest != reference(loop__steps=first_wrong)


def test_a_worker_refuses_an_adapter_whose_bytes_are_others_than_their_hash_says() -> None:
    policy = plain.PlainPolicy(0, 1, settings("plain"))
    _, adapter = policy.export(0)
    request = DrawRequest("train", 1, (), 0, adapter.sha256, 1, 1.0, 32, 32)
    assert plain.PlainRollout().draw(request, adapter) == ((),)
    changed = {**adapter.tensors, plain.UP: adapter.tensors[plain.UP] + 1}
    with pytest.raises(ValueError, match="but the request names"):
        plain.PlainRollout().draw(request, replace(adapter, tensors=changed))
    _, files = policy.snapshot(adapter)
    assert list(files) == [checkpoint.STATE, checkpoint.ADAPTER, checkpoint.version_file(0)], (
        "the files' names are the real ones"
    )


def test_a_whole_run_loads_no_models_library(plain_world: Path, tmp_path: Path) -> None:
    words = [str(plain_world), "--out", str(tmp_path / "run"), *LOCAL]
    code = f"import sys, {PLAIN} as plain; print(plain.in_no_time({words!r}), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    exit_code, *modules = done.stdout.splitlines()[-1].split()
    assert exit_code == "0"
    assert not {"torch", "diffusers", "transformers"} & set(modules)
