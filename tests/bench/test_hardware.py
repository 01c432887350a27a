"""What benchmarks measure with: turns, ratios, peaks of memory and of speed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.hardware import MB, matrix_peak, median_of_pairs, take_turns

ROOT = Path(__file__).resolve().parents[2]


def test_ways_take_turns_after_one_call_that_does_not_count():
    calls: list[str] = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3, "cpu")
    assert calls == list("ab") * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_turn_that_was_slow_for_both_does_not_move_the_ratio():
    assert median_of_pairs([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == 2.0


PEAK = f"""
import torch
from bench.hardware import peak_memory
with peak_memory("cpu") as peak:
    torch.ones(64 * {MB} // 4).sum()
print(peak.mb)
"""


def test_memory_that_is_in_use_for_a_while_counts():
    """In a process of its own: one that ran other tests has freed memory to use again."""
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 60 < float(done.stdout) < 100


def test_the_fastest_product_sets_the_peak(monkeypatch: pytest.MonkeyPatch):
    speeds = {128: 3.0, 256: 5.0}
    monkeypatch.setattr("bench.hardware._square_flop_per_s", lambda size, device, dtype: speeds[size])
    assert matrix_peak("cpu", torch.float32) == 5.0


def test_the_speed_of_a_product_is_its_operations_by_its_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.hardware.take_turns", lambda ways, repeats, device: {"": [0.5, 0.25, 1.0]})
    assert matrix_peak("cpu", torch.float32) == 2 * 256**3 / 0.25
