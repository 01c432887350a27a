"""Whole runs of the main job on tiny models: what a run leaves, that its result depends on the recipe alone, and its exit codes.

Those whose subject is the driver are of the plain world.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.train import main
from tests.support.plain_run import in_no_time
from tests.support.plain_run import main as plain_main
from tests.support.plain_world import unscorable

ROOT = Path(__file__).resolve().parents[2]


def plainly(recipe, out, *options):
    return [sys.executable, "-m", "tests.support.plain_run", str(recipe), "--out", str(out), *options]


def environment(address):
    return {**os.environ, "RAY_ADDRESS": address}


def overrides(**values):
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def train_here(recipe, out, *options, program=main):
    assert program([str(recipe), "--out", str(out), "--executor", "local", *options]) == 0
    return summary_of(out)


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def local_runs(plain_world, tmp_path_factory):
    """Summaries of runs of the plain world in this process, by staleness."""
    folder = tmp_path_factory.mktemp("local")
    return {
        s: train_here(plain_world, folder / str(s), *overrides(loop__staleness=s, loop__steps=5), program=in_no_time)
        for s in (0, 1, 2)
    }


def test_a_run_leaves_a_whole_folder(tiny_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("run")  # relative, as at the command line
    summary = train_here(tiny_world, out)
    assert {
        "recipe.toml",
        "metrics.jsonl",
        "events.jsonl",
        "heldout.jsonl",
        "tokens.json",
        "summary.json",
        "report.html",
    } <= set(os.listdir(out))
    assert summary["steps"] == 3
    assert summary["images"] == 3 * 2 * 4
    assert summary["images_per_s"] == pytest.approx(summary["images"] / summary["seconds"])
    for tag in ("before", "after"):
        assert set(summary["heldout"][tag]["by_category"]) == {"triangle", "cross"}
        assert {"accuracy", "reward"} <= set(summary["heldout"][tag])
    metrics = lines_of(out / "metrics.jsonl")
    assert [record["step"] for record in metrics] == [1, 2, 3]
    assert metrics[-1]["digest"] == summary["digest"]
    for key in (
        "ratio_p05",
        "ratio_p50",
        "ratio_p95",
        "clip_fraction",
        "grad_norm",
        "reward_mean",
        "reward_std",
        "kl_reference",
        "kl_ema",
    ):
        assert key in metrics[0]
    assert [(record["tag"], record["step"], record["guidance"]) for record in lines_of(out / "heldout.jsonl")] == [
        ("before", 0, 1.0), ("before", 0, 2.0), ("during", 2, 1.0), ("after", 3, 1.0),
    ]  # fmt: skip
    assert len(list((out / "samples").glob("*.png"))) >= 3
    tokens = json.loads((out / "tokens.json").read_text())
    assert {record["which"] for record in tokens} <= {"worst", "best"}
    assert all(len(record["log_probs_KT"][0]) == len(record["tokens"]) for record in tokens)
    status = json.loads((out / "status.json").read_text())
    assert status["status"] == "done"
    assert (out / "checkpoints" / "step-000003" / "adapter" / "pytorch_lora_weights.safetensors").is_file()


def test_the_digest_depends_on_the_seed_and_on_what_is_trained(local_runs, plain_world, tmp_path):
    digests = {run["digest"] for run in local_runs.values()}
    assert len(digests) == 3
    for number, change in enumerate((["run.seed=7"], ["policy.learning_rate=2e-3"], ["rollout.guidance_scale=2.0"])):
        options = [*overrides(loop__staleness=0, loop__steps=5), "--set", *change]
        digests.add(train_here(plain_world, tmp_path / str(number), *options, program=in_no_time)["digest"])
    assert len(digests) == 6


def test_versions_follow_the_staleness(plain_world, tmp_path):
    train_here(plain_world, tmp_path / "run", *overrides(loop__staleness=2, loop__steps=5), program=in_no_time)
    assert [record["staleness"] for record in lines_of(tmp_path / "run" / "metrics.jsonl")] == [
        [0, 0],
        [1, 1],
        [2, 2],
        [2, 2],
        [2, 2],
    ]


def test_ready_order_keeps_the_bound_and_says_that_it_is_not_reproducible(ray_cluster, plain_world, tmp_path):
    options = overrides(loop__staleness=1, loop__steps=6, loop__order="ready", rollout__size=2)
    assert plain_main([str(plain_world), "--out", str(tmp_path / "run"), *options]) == 0
    summary = summary_of(tmp_path / "run")
    assert summary["reproducible"] is False
    assert summary["images"] == 6 * 2 * 4
    staleness = [lag for record in lines_of(tmp_path / "run" / "metrics.jsonl") for lag in record["staleness"]]
    assert set(staleness) <= {0, 1}


def test_no_figure_of_the_checker_reaches_the_training(local_runs, plain_world, tmp_path):
    options = overrides(loop__staleness=0, loop__steps=5, heldout__checker="tests.support.shapes:contrary")
    summary = train_here(plain_world, tmp_path / "run", *options, program=in_no_time)
    assert summary["heldout"]["before"]["accuracy"] == pytest.approx(1 - local_runs[0]["heldout"]["before"]["accuracy"])
    assert summary["digest"] == local_runs[0]["digest"]
    without_heldout = Path(tmp_path / "bare.toml")
    text = plain_world.read_text()
    without_heldout.write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith(("heldout =", "checker =")))
    )
    options = overrides(loop__staleness=0, loop__steps=5)
    bare = train_here(without_heldout, tmp_path / "bare", *options, program=in_no_time)
    assert bare["digest"] == local_runs[0]["digest"]


def test_the_measured_behaviour_policy_gives_ratios_that_are_not_one(tiny_world, tmp_path):
    options = overrides(loop__staleness=2, loop__steps=5, objective__behaviour="measured", policy__learning_rate=0.01)
    train_here(tiny_world, tmp_path / "run", *options)
    ratios = [record["ratio_p95"] - record["ratio_p05"] for record in lines_of(tmp_path / "run" / "metrics.jsonl")]
    assert ratios[0] < 1e-5
    assert ratios[-1] > 1e-5


def test_a_nan_reward_quarantines_its_group_and_says_so(plain_world, tmp_path):
    """That the models' judges give NaN, and not an error or a number: tests/actors/reward."""
    options = overrides(reward__model="plain/blind-to-green", loop__steps=6)
    summary = train_here(plain_world, tmp_path / "run", *options, program=in_no_time)
    events = [event for event in lines_of(tmp_path / "run" / "events.jsonl") if event["kind"] == "quarantine"]
    assert events
    assert all("green" in event["caption"] and "nan" in event["message"] for event in events)
    assert summary["quarantined"] == len(events)
    metrics = lines_of(tmp_path / "run" / "metrics.jsonl")
    quarantined = sum(event["purpose"] == "train" for event in events)
    assert sum(record["images"] for record in metrics) == 4 * (6 * 2 - quarantined)
    assert all(record["reward_mean"] is None or record["reward_mean"] < 0 for record in metrics)


def test_too_many_failures_in_a_row_end_the_run(plain_world, tmp_path, capsys):
    options = overrides(**unscorable(tmp_path), loop__max_failures_in_row=3)
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), "--executor", "local", *options]) == 1
    assert "in a row" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "failed"


def test_a_long_caption_is_cut_flagged_and_scored_as_drawn(tiny_world, tmp_path):
    prompts = tmp_path / "long.jsonl"
    prompts.write_text(
        "".join(json.dumps({"caption": f"a {c} circle " + "and a red square " * 10}) + "\n" for c in ("red", "blue"))
    )
    train_here(tiny_world, tmp_path / "run", *overrides(data__train=prompts, loop__steps=1))
    assert lines_of(tmp_path / "run" / "metrics.jsonl")[0]["cut_captions"] == 2


def test_a_stopped_run_resumes_to_the_same_digest(ray_cluster, plain_world, tmp_path):
    """Ctrl-C on Ray; then the rest, in this process, reaches the digest of a run that was never stopped."""
    out = tmp_path / "run"
    options = overrides(loop__staleness=1, loop__steps=40, heldout__every=20)
    whole = train_here(plain_world, tmp_path / "whole", *options, program=in_no_time)
    process = subprocess.Popen(
        plainly(plain_world, out, *options), cwd=ROOT, env=environment(ray_cluster), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: (out / "metrics.jsonl").is_file() and len(lines_of(out / "metrics.jsonl")) >= 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume" in output
    assert json.loads((out / "status.json").read_text())["status"] == "stopped"
    assert summary_of(out)["steps"] < 40
    resumed = train_here(plain_world, out, *options, "--resume", program=in_no_time)
    assert resumed["digest"] == whole["digest"]
    assert [record["step"] for record in lines_of(out / "metrics.jsonl")] == list(range(1, 41))
    assert resumed["heldout"]["after"] == whole["heldout"]["after"]
    assert resumed["heldout"]["before"] == whole["heldout"]["before"]


def test_resuming_with_another_recipe_is_refused(plain_world, tmp_path, capsys):
    train_here(plain_world, tmp_path / "run", program=in_no_time)
    words = [str(plain_world), "--out", str(tmp_path / "run"), "--executor", "local", "--resume"]
    assert in_no_time([*words, "--set", "run.seed=9"]) == 2
    assert "seed = 9" in capsys.readouterr().err


def test_on_ray_a_run_ends_as_the_local_one_and_the_driver_keeps_no_images_and_loads_no_torch(
    ray_cluster, plain_world, tmp_path
):
    """With one worker of each pool. 200 groups of a quarter of a megabyte each would show if they stayed in the driver."""
    out = tmp_path / "run"
    options = overrides(
        loop__steps=100,
        loop__staleness=0,
        rollout__height=128,
        rollout__width=128,
        rollout__steps=1,
        rollout__chunk=4,
        loop__checkpoint_every=1000,
    )
    options += overrides(
        heldout__images_per_category=2, heldout__every=1000, objective__timesteps_per_sample=1, objective__kl_ema=0.0
    )
    process = subprocess.Popen(
        plainly(plain_world, out, *options), cwd=ROOT, env=environment(ray_cluster), stdout=subprocess.DEVNULL
    )
    wait_for(
        lambda: (
            process.poll() is not None
            or ((out / "metrics.jsonl").is_file() and len(lines_of(out / "metrics.jsonl")) >= 10)
        )
    )
    early = resident_bytes(process.pid)
    libraries = Path(f"/proc/{process.pid}/maps").read_text()
    latest = early
    while process.poll() is None:
        latest = resident_bytes(process.pid) or latest
        time.sleep(0.1)
    assert process.returncode == 0
    assert "libtorch" not in libraries
    assert latest - early < 20 * 2**20
    on_ray = summary_of(out)
    here = train_here(plain_world, tmp_path / "here", *options, program=in_no_time)
    assert (on_ray["digest"], on_ray["heldout"]["after"]) == (here["digest"], here["heldout"]["after"])


def resident_bytes(pid):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout__chunck": 2}, "did you mean chunk?"),
        ({"rollout__group_size": 1}, "greater than or equal to 2"),
        ({"data__train": "nowhere.jsonl"}, "there is no such file"),
        ({"policy__model": "recipes"}, "policy.model = 'recipes': no model"),
        ({"reward__model": "no/such/folder"}, "reward.model"),
        ({"heldout__checker": "nowhere:check"}, "heldout.checker"),
        ({"data__mix": "{nothing = 2}"}, "does not have: nothing"),
    ],
)
def test_a_users_mistake_ends_with_2_before_any_worker_starts(tiny_world, tmp_path, capsys, change, message):
    assert main([str(tiny_world), "--out", str(tmp_path / "run"), *overrides(**change)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_worker_that_cannot_start_ends_the_run_with_its_own_error(tiny_world, tmp_path, capsys, monkeypatch):
    def load(options):
        raise OSError("the disk does not answer")

    monkeypatch.setattr("actors.reward.kinds.promptecho.PromptEchoOptions.load", load)
    assert main([str(tiny_world), "--out", str(tmp_path / "run"), "--executor", "local"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "worker reward-0 could not start" in said
    assert said.endswith("OSError: the disk does not answer")
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_training_on_held_out_captions_is_refused(tiny_world, tmp_path, capsys):
    options = overrides(data__heldout=tiny_world.parent / "train.jsonl")
    assert main([str(tiny_world), "--out", str(tmp_path / "run"), *options]) == 2
    assert "are also in data.train" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_overwritten(plain_world, tmp_path, capsys):
    train_here(plain_world, tmp_path / "run", *overrides(loop__steps=1), program=in_no_time)
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), "--executor", "local"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_more_workers_than_fit_are_refused(ray_cluster, tiny_world, tmp_path, capsys):
    assert main([str(tiny_world), "--out", str(tmp_path / "run"), *overrides(rollout__size=40)]) == 2
    assert "rollout 40 x 0.2" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
