"""Runs that begin from a LoRA: version 0 is that one, and another file is noticed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.runs import lines_of, overrides, train

ROOT = Path(__file__).resolve().parents[3]


SHORT = overrides(loop__steps=2, loop__checkpoint_every=1, loop__keep_checkpoints=9, policy__learning_rate=0.01)


@pytest.fixture(scope="module")
def first(tiny_world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("first") / "run"
    train(tiny_world, out, *SHORT)
    return out


@pytest.fixture(scope="module")
def second(first, tiny_world, tmp_path_factory) -> Path:
    """A run that begins from the last checkpoint of the first."""
    out = tmp_path_factory.mktemp("second") / "run"
    train(tiny_world, out, *SHORT, *overrides(policy__init_adapter=first))
    return out


def heldout(out, tag):
    return next(record for record in lines_of(out / "heldout.jsonl") if record["tag"] == tag)


def test_version_0_is_the_adapter_that_it_begins_from(first, second):
    assert (
        heldout(second, "before")["reward"] == heldout(first, "after")["reward"] != heldout(first, "before")["reward"]
    )
    manifest = json.loads((second / "checkpoints/step-000001/manifest.json").read_text())
    assert len(manifest["inputs"]["init_adapter_sha256"]) == 64
    assert heldout(second, "after")["reward"] != heldout(second, "before")["reward"]


def test_the_reference_stays_the_base(second):
    assert lines_of(second / "metrics.jsonl")[0]["kl_reference"] > 0, "a new adapter would be at the base in step 1"


def test_it_resumes_to_the_same_digest_and_notices_another_file(first, second, tiny_world, tmp_path, capsys):
    place = first / "checkpoints/step-000002/adapter/pytorch_lora_weights.safetensors"
    resume = ["--resume", str(second / "checkpoints/step-000001")]
    again = train(tiny_world, tmp_path / "again", *SHORT, *overrides(policy__init_adapter=place), *resume)
    assert again["digest"] == json.loads((second / "summary.json").read_text())["digest"]
    other = first / "checkpoints/step-000001"
    for options in (overrides(policy__init_adapter=other), []):
        train(tiny_world, tmp_path / "other", *SHORT, *options, *resume, code=2)
        assert "policy.init_adapter is not the file that the run began with" in " ".join(
            capsys.readouterr().err.split()
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (overrides(policy__lora_rank=8), "set policy.lora_rank = 4"),
        (overrides(policy__lora_alpha=4.0), "set policy.lora_alpha = 8.0"),
        (overrides(policy__init_adapter="nowhere"), "no such file or folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_worker_starts(first, tiny_world, tmp_path, capsys, options, message):
    train(tiny_world, tmp_path / "run", *overrides(policy__init_adapter=first), *options, code=2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_every_rank_of_zero_begins_from_it(first, tiny_world, tmp_path):
    out = tmp_path / "run"
    options = [*SHORT, *overrides(policy__init_adapter=first, policy__zero_stage=2, loop__steps=1)]
    command = [sys.executable, "-m", "pipelines.train", str(tiny_world), "--out", str(out), "--executor", "local"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True
    )  # DeepSpeed: a process of its own
    assert done.returncode == 0, done.stdout + done.stderr
    assert heldout(out, "before")["reward"] == heldout(first, "after")["reward"]
    began, now = (
        load_file(run / "checkpoints" / place / "policy.safetensors")
        for run, place in ((first, "step-000002"), (out, "step-000001"))
    )
    moved = [abs(now[name] - began[name]).max() for name in began if name.startswith("trained/")]
    assert 0 < max(moved) < 0.05, "one step away from where it began"
    shutil.rmtree(out)
