"""A resumed run with another recipe: what it changes is recorded, the digest says where, and what cannot change is refused."""

from __future__ import annotations

import json
import tomllib
from functools import partial
from pathlib import Path

import pytest

from tests.support.plain_run import in_no_time
from tests.support.runs import lines_of, overrides
from tests.support.runs import train as train_with

STEPS = 3
train = partial(train_with, program=in_no_time)


def digests(out):
    return [record["digest"] for record in lines_of(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def run(plain_world, tmp_path_factory) -> Path:
    """A run of STEPS steps with a checkpoint of each."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(plain_world, out, *overrides(loop__steps=STEPS, loop__checkpoint_every=1, loop__keep_checkpoints=9))
    return out


def longer(**more):
    return overrides(
        **{
            "loop__steps": STEPS + 2,
            "loop__checkpoint_every": 1,
            "loop__keep_checkpoints": 9,
            "policy__learning_rate": 0.005,
            **more,
        }
    )


def place(run, step=STEPS):
    return str(run / "checkpoints" / f"step-{step:06d}")


@pytest.fixture(scope="module")
def longer_run(run, plain_world, tmp_path_factory) -> Path:
    """The run, trained on for two steps at another learning rate, in a folder of its own."""
    out = tmp_path_factory.mktemp("longer") / "run"
    train(plain_world, out, *longer(), "--resume", place(run))
    return out


def test_a_longer_run_at_another_learning_rate_says_in_every_record_where_it_changed(run, longer_run):
    summary = json.loads((longer_run / "summary.json").read_text())
    changed = {"loop.steps": [STEPS, STEPS + 2], "policy.learning_rate": [0.01, 0.005]}
    assert summary["status"] == "done"
    assert summary["changes"] == [{"step": STEPS, "changed": changed}]
    assert json.loads(Path(place(longer_run, STEPS + 2), "manifest.json").read_text())["changes"] == summary["changes"]
    (event,) = (event for event in lines_of(longer_run / "events.jsonl") if event["kind"] == "recipe_changed")
    assert (event["step"], event["changed"]) == (STEPS, changed)
    assert tomllib.loads((longer_run / "recipe.toml").read_text())["policy"]["learning_rate"] == 0.005
    assert tomllib.loads((longer_run / event["earlier"]).read_text())["policy"]["learning_rate"] == 0.01
    metrics = lines_of(longer_run / "metrics.jsonl")
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5]
    assert metrics[-1]["learning_rate"] == 0.005
    assert digests(longer_run)[:STEPS] == digests(run)
    assert summary["heldout"]["after"]["step"] == STEPS + 2
    report = (longer_run / "report.html").read_text()
    assert "policy.learning_rate 0.01 → 0.005" in report
    assert '<line class="mark"' in report
    assert '<line class="mark"' not in (run / "report.html").read_text()


def test_a_changed_run_resumes_to_the_digest_that_it_has_and_that_is_not_an_unchanged_ones(
    run, longer_run, plain_world, tmp_path
):
    train(plain_world, tmp_path / "again", *longer(), "--resume", place(longer_run, STEPS + 1))
    assert digests(tmp_path / "again") == digests(longer_run)
    train(plain_world, tmp_path / "whole", *longer(policy__learning_rate=0.01))
    assert digests(tmp_path / "whole")[:STEPS] == digests(run)
    assert digests(tmp_path / "whole")[STEPS] != digests(longer_run)[STEPS]


def test_other_held_out_prompts_are_evaluated_from_the_base_on(run, plain_world, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(
        json.dumps({"id": "new", "caption": "two red photo", "category": "new", "colour": "red"}) + "\n",
        encoding="utf-8",
    )
    options = longer(data__heldout=other, heldout__images_per_category=2)
    summary = train(plain_world, tmp_path / "run", *options, "--resume", place(run, 2))
    records = lines_of(tmp_path / "run" / "heldout.jsonl")
    assert [(record["tag"], record["step"]) for record in records if record["guidance"] == 1.0] == [
        ("before", 0), ("during", 2), ("during", 4), ("after", 5),
    ]  # fmt: skip
    assert all(set(record["by_category"]) == {"new"} for record in records)
    assert set(summary["heldout"]["before"]["by_category"]) == {"new"}
    earlier = lines_of(tmp_path / "run" / "heldout-until-000002.jsonl")
    assert {name for record in earlier for name in record["by_category"]} == {"triangle", "cross"}
    changed = summary["changes"][0]["changed"]
    assert changed["data.heldout"][1].startswith(str(other))
    assert changed["heldout.images_per_category"] == [4, 2]


def test_the_same_prompts_from_another_place_are_no_change(run, plain_world, tmp_path):
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_bytes((plain_world.parent / f"{name}.jsonl").read_bytes())
    options = overrides(
        loop__steps=STEPS, data__train=tmp_path / "train.jsonl", data__heldout=tmp_path / "heldout.jsonl"
    )
    summary = train(plain_world, tmp_path / "run", *options, "--resume", place(run, 2))
    assert summary["changes"] == []
    assert digests(tmp_path / "run") == digests(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy__lora_rank": 8}, "policy.lora_rank = 8 (the checkpoint has 4)"),
        ({"rollout__group_size": 8}, "rollout.group_size = 8 (the checkpoint has 4)"),
        ({"objective__type": "nft"}, "objective.type = 'nft' (the checkpoint has 'awm')"),
        ({"reward__transform": "exp"}, "reward.transform = 'exp' (the checkpoint has 'none')"),
        ({"loop__steps": 2}, "loop.steps = 2, but the checkpoint is of step 3"),
    ],
)
def test_what_a_run_cannot_change_is_refused_with_its_table_and_both_values(
    run, plain_world, tmp_path, capsys, change, message
):
    train(plain_world, tmp_path / "run", *overrides(**{"loop__steps": STEPS, **change}), "--resume", place(run), code=2)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
