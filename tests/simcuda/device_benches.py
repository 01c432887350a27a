"""The commands that are to be run on a GPU, at their smallest on the device: each to its last line.

Of the families one or two: all of them draw and train here in device_families.py, and through each command in tests/bench. Ranks are
timed in device_ranks.py, where DeepSpeed is at home.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import gpu, hardware, learner, reward, rollout
from bench.gpu_case import FAMILIES, Case

# where captions are padded it sends their length in each forward
WAITS_OF_DIFFUSERS = {"qwen-image": "at diffusers/models/transformers/transformer_qwenimage.py"}
TINY = ["--tiny", "--device", "cuda", "--repeats", "1"]


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hardware.PEAK_SIZES, "cuda", (64,))
    monkeypatch.setitem(hardware.PEAK_ROUNDS, "cuda", 1)
    monkeypatch.setattr(hardware, "MATMUL_ROUNDS", 2)


@pytest.mark.parametrize("family", ["sd3.5-medium", "qwen-image"])
def test_drawing_waits_for_nothing_in_its_loop(family: str, tmp_path: Path):
    rollout.main(["--family", family, "--guidance", "4", *TINY, "--out", str(tmp_path)])
    result = json.loads((tmp_path / f"rollout_{family}.json").read_text())
    assert WAITS_OF_DIFFUSERS.get(family, "no") in result["waits"]
    assert result["dtype"] == "bfloat16"


def test_training_runs_with_its_anchor(tmp_path: Path):
    family = "sd3.5-medium"
    learner.main(["--family", family, "--kl", "0.01", "--micro-batch", "1", *TINY, "--out", str(tmp_path)])
    assert len(json.loads((tmp_path / f"learner_{family}.json").read_text())["rows"]) == 2


def test_the_likelihood_agrees_with_the_obvious_way():
    case = replace(reward.speed_cases(quick=True)[0], group=2)
    assert reward.measure_speed(case, reward.JUDGE, "cuda", repeats=1)["ratio"] > 0


@pytest.mark.parametrize("part", gpu.PARTS)
def test_a_part_of_the_first_ten_minutes_finds_all_that_it_looks_for(part: str, tmp_path: Path):
    family = list(FAMILIES)[list(gpu.PARTS).index(part) % len(FAMILIES)]
    gpu.run_part(part, Case(family, "qwen3-vl-8b", "cuda", tiny=True), tmp_path / "part.json")
    found = json.loads((tmp_path / "part.json").read_text())
    assert found
    assert "error" not in found
    wrong = [
        what
        for what, figures in found.items()
        for name, value in figures.items()
        if "same" in name and value is not True
    ]
    assert not wrong, found
