"""The benchmark of a learner's step on narrow models: our gradient is that by hand, and its figures follow from each other."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.full_size import IMAGE_MODELS
from bench.learner import Bench, main, measure

CPU = torch.device("cpu")


def options(**changes) -> argparse.Namespace:
    given = {
        "family": "sd3.5-medium",
        "tiny": True,
        "size": 64,
        "samples": 2,
        "tokens": 20,
        "timesteps": 2,
        "rank": 4,
        "kl": 0.0,
    }
    return argparse.Namespace(**given | {"repeats": 1} | changes)


@pytest.mark.parametrize(("name", "kl"), [*((name, "0") for name in IMAGE_MODELS), ("sd3.5-medium", "0.1")])
def test_a_step_by_hand_learns_the_same_but_for_the_distance_to_the_reference(name: str, kl: str, tmp_path: Path):
    sizes = ["1", "2"] if name == "sd3.5-medium" and kl == "0" else ["1"]
    given = ["--family", name, "--tiny", "--kl", kl, "--device", "cpu", "--repeats", "1", "--out", str(tmp_path)]
    main([*given, "--micro-batch", *sizes])
    result = json.loads((tmp_path / f"learner_{name}.json").read_text())
    rows = result["rows"]
    expected = [(int(size), checkpointing) for size in sizes for checkpointing in (False, True)]
    assert [(row["micro_batch"], row["checkpointing"]) for row in rows] == expected
    assert all((row["difference"] < 1e-3) == (kl == "0") for row in rows)


@pytest.mark.parametrize(("name", "kl"), [*((name, 0.1) for name in IMAGE_MODELS), ("sd3.5-medium", 0.0)])
def test_the_operations_of_a_step_are_those_that_torch_counts(name: str, kl: float):
    bench = Bench(options(family=name, kl=kl), CPU, torch.float32)
    update = bench.ours(2)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        update()
    assert 2e12 * bench.tflop_per_sample() == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_step_leaves_the_weights_as_they_were():
    """So that every turn of every row does the same work."""
    bench = Bench(options(), CPU, torch.float32)
    update = bench.ours(1)
    first = update()
    assert first > 0
    assert [update(), bench.by_hand(2)()] == pytest.approx([first, first], rel=1e-4)


def test_another_gradient_than_that_by_hand_is_an_error(monkeypatch):
    bench = Bench(options(), CPU, torch.float32)
    monkeypatch.setattr(bench, "ours", lambda _: lambda: 1e3)
    with pytest.raises(RuntimeError, match="by hand"):
        measure(bench, 1, False, 1e-3, 1e9)


def test_a_micro_batch_that_does_not_fit_is_a_row_that_says_so(monkeypatch):
    bench = Bench(options(), CPU, torch.float32)

    def refuse() -> float:
        for parameter in bench.family.transformer.parameters():
            parameter.grad = torch.ones_like(parameter)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench, "ours", lambda _: refuse)
    assert measure(bench, 8, True, 1e-3, 1e9) == {"micro_batch": 8, "checkpointing": True, "out_of_memory": True}
    assert all(parameter.grad is None for parameter in bench.family.transformer.parameters())
