"""Ours beside a plain loop: the same images and rewards, and ratios of turns that follow each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.peers import main, ratios

SECONDS = {
    "ours, sample, 4 a task": [1.0, 2.0, 1.0],
    "plain, sample, all at once": [2.0, 4.0, 3.0],
    "plain, sample, group by group": [3.0, 6.0, 3.0],
    "ours, score": [1.0, 1.0, 1.0],
    "plain, score": [1.0, 1.0, 2.0],
    "plain, score, a forward a token": [7.0, 8.0, 9.0],
    "ours, update": [2.0, 2.0, 2.0],
    "plain, update": [1.0, 3.0, 3.0],
}


def test_ratios_are_medians_over_turns_and_a_step_is_the_sum_of_its_pieces() -> None:
    found = ratios(SECONDS, ["ours, sample, 4 a task"])["ours, sample, 4 a task"]
    assert found == {
        "sampling, all at once": 2.0,
        "sampling, group by group": 3.0,
        "scoring": 1.0,
        "scoring, a forward a token": 8.0,
        "update": 1.5,
        "whole step": 8 / 5,  # of 4/4, 8/5 and 8/4
    }


def test_both_loops_do_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["--quick", "--repeats", "1", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "peers.json").read_text())
    assert results["differences"]["pixels"] <= 1
    assert 0 <= results["differences"]["rewards"] < 1e-4
    assert list(results["ratios"]) == ["ours, sample, 1 a task", "ours, sample, 2 a task"]
    assert all(len(turns) == 1 for turns in results["seconds"].values())
    monkeypatch.setattr("bench.peers.NATS", -1.0)
    with pytest.raises(RuntimeError, match="the work is not the same"):
        main(["--quick", "--repeats", "1", "--out", str(tmp_path)])
