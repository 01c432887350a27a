"""The driver takes nobody's word: images of another version than it asked for never count, nor does a snapshot that was let go."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tests.support.plain_run import in_no_time, pools_in_no_time
from tests.support.plain_world import PlainPolicy, PlainRollout
from tests.support.runs import main_with

WHERE = {"purpose": "train", "step": 2, "group": 1}
RETRIES = 2


class StaleRollout(PlainRollout):
    """Draws the first `times` chunks asked for of one group with the adapter that it met first, and reports that one's hash."""

    times = 0.0
    drawn: list  # (request, hash reported) of that group's chunks
    first = None

    def draw(self, request, adapter):
        self.first = self.first or adapter
        (part,) = request.parts
        watched = {"purpose": request.purpose, "step": request.step, "group": part.group} == WHERE
        stale = watched and len(self.drawn) < self.times
        held = self.first if stale else adapter
        (report,), *arrays = super().draw(replace(request, adapter_sha256=held.sha256), held)
        if watched:
            self.drawn.append((request, report.adapter_sha256))
        return (report,), *arrays


class ShakyPolicy(PlainPolicy):
    """Raises in its snapshot number `raises_in`, counted over all its lives."""

    raises_in = 0
    snapshots = 0

    def snapshot(self, *adapters):
        ShakyPolicy.snapshots += 1
        if self.snapshots == self.raises_in:
            raise RuntimeError("the snapshot does not want to")
        return super().snapshot(*adapters)


@pytest.fixture
def train(plain_world, tmp_path, monkeypatch):
    """Runs the plain recipe with an actor that is stale so many times; returns the run's folder and what the actor drew."""

    def train(times):
        monkeypatch.setattr(StaleRollout, "times", times)
        monkeypatch.setattr(StaleRollout, "drawn", [], raising=False)
        out = tmp_path / str(times)
        options = ["--executor", "local", "--set", f"loop.retries={RETRIES}"]
        assert (
            main_with("rollout", StaleRollout, pools_in_no_time)([str(plain_world), "--out", str(out), *options]) == 0
        )
        return out, StaleRollout.drawn

    return train


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def events_of(out, kind):
    return [event for event in lines_of(out / "events.jsonl") if event["kind"] == kind]


def test_a_chunk_that_another_version_drew_is_drawn_again(train):
    calm, drawn_calmly = train(0)
    disturbed, drawn = train(1)
    request, held = drawn[0]
    assert held != request.adapter_sha256
    assert [each for each, _ in drawn].count(request) == 2
    assert len(drawn) == len(drawn_calmly) + 1
    (failure,) = events_of(disturbed, "failure")
    assert failure.items() >= {**WHERE, "chunk": request.parts[0].chunk}.items()
    assert request.adapter_sha256[:12] in failure["message"]
    assert held[:12] in failure["message"]
    assert not events_of(calm, "failure")
    assert not events_of(disturbed, "quarantine")
    assert summary_of(disturbed)["digest"] == summary_of(calm)["digest"]
    assert summary_of(disturbed)["heldout"]["after"] == summary_of(calm)["heldout"]["after"]


def test_a_prompt_that_another_version_always_draws_is_quarantined(train):
    out, drawn = train(math.inf)
    request, held = drawn[0]
    (quarantine,) = events_of(out, "quarantine")
    assert quarantine.items() >= {**WHERE, "caption": request.parts[0].caption, "tries": RETRIES + 1}.items()
    assert request.adapter_sha256[:12] in quarantine["message"]
    assert held[:12] in quarantine["message"]
    assert {event["group"] for event in events_of(out, "failure")} == {WHERE["group"]}
    assert summary_of(out)["quarantined"] == 1
    metrics = lines_of(out / "metrics.jsonl")
    assert [(record["step"], record["images"]) for record in metrics] == [(1, 8), (2, 4), (3, 8)]


@pytest.mark.parametrize(("raises_in", "again_from"), [(1, 0), (2, 2)])
def test_a_policy_that_is_lost_in_a_snapshot_makes_each_checkpoint_once(
    plain_world, tmp_path, monkeypatch, raises_in, again_from
):
    """Above all it does not write the one that it went back to once more: that is the only one, and it is whole."""
    options = ["--executor", "local", "--set", "loop.steps=6", "--set", "loop.checkpoint_every=2"]
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "calm"), *options]) == 0
    monkeypatch.setattr(ShakyPolicy, "raises_in", raises_in)
    monkeypatch.setattr(ShakyPolicy, "snapshots", 0)
    out = tmp_path / "shaken"
    assert main_with("policy", ShakyPolicy, pools_in_no_time)([str(plain_world), "--out", str(out), *options]) == 0
    assert [event["step"] for event in events_of(out, "policy_restarted")] == [again_from]
    assert [event["step"] for event in events_of(out, "checkpoint_failed")] == [2 * raises_in]
    assert [event["step"] for event in events_of(out, "checkpoint")] == [2, 4, 6]
    assert summary_of(out)["digest"] == summary_of(tmp_path / "calm")["digest"]
