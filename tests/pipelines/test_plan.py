"""The command: what it prints, what it writes, and what it says of a user's mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipelines.plan import main
from pipelines.recipe.load import load_recipe
from tests.pipelines.planning.test_measured import record, run_folder

SD35 = "recipes/sd35m_8gpu.toml"
TOY = "recipes/toy.toml"
TWO = "recipes/toy_two_rewards.toml"
SMALL = ("--set", "rollout.prompts_per_step=4", "--steps", "1")  # 8 chunks a step


def test_a_split_is_found_and_said_as_options_to_paste(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SD35, "--gpus", "8", *SMALL, "--json", str(tmp_path / "plan.json")]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "plan.json").read_text())
    assert "An estimate, not a measurement" in printed
    assert "best  " + " ".join(f"--set {text}" for text in results["best"]["set"]) in printed
    assert results["best"]["gpus"] == 8
    assert max(plan["images_per_s"] for plan in results["plans"]) <= results["best"]["images_per_s"] / 0.97
    assert re.search(r"own +4 +3 +1 +8", printed), "the recipe's own split has a row"
    steps, best = load_recipe(Path(SD35)).loop.steps, results["best"]
    assert best["gpu_hours"] == pytest.approx(steps * best["step_s"] * 8 / 3600)
    assert "at ±25 %: the least share of the best speed" in printed
    load_recipe(Path(SD35), ["rollout.prompts_per_step=4", *results["best"]["set"]])


def test_without_gpus_the_recipes_own_sizes_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SD35, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "Staleness" in printed
    assert "Splits" not in printed
    assert "--set policy.ranks=4 --set rollout.size=3 --set reward.size=1" in printed


def test_a_measured_run_is_compared_with_its_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, [record(step) for step in range(12)])
    assert main([TOY, "--measured", folder, "--steps", "2", "--json", str(tmp_path / "plan.json")]) == 0
    assert "80 measured" in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())["measured"]["ratio"] == pytest.approx(1.0, rel=0.05)


def test_a_large_cluster_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SD35, "--scale", "100", "--steps", "1", "--json", str(tmp_path / "plan.json")]) == 0
    assert "CPU seconds a step" in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())["scale"]["gpus"] == 100


def test_several_rewards_are_planned_each_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [word for pool in ("rollout", "policy", "reward.echo") for word in ("--set", f"{pool}.num_gpus=1.0")]
    smaller = ("--set", "rollout.groups_per_task=1", "--set", "reward.small.num_gpus=0.25", "--steps", "1")
    assert main([TWO, "--gpus", "4", *asked, *smaller, "--json", str(tmp_path / "plan.json")]) == 0
    printed = capsys.readouterr().out
    best = json.loads((tmp_path / "plan.json").read_text())["best"]
    assert {"reward.echo", "reward.small"} <= best["busy"].keys()
    assert "echo/small/policy/driver" in printed
    assert "--set reward.echo.size=" in printed
    load_recipe(Path(TWO), best["set"])
    assert main([TWO, "--scale", "3"]) == 2
    assert "give at least 4, a worker for each pool" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "2"], "too few for one worker of each pool"),
        (["--gpus", "8", "--gpu", "abacus"], "not in the table; allowed are a100"),
        (["--gpus", "8", "--gpu", "l40s", "--set", "reward.model=Qwen/Qwen3-VL-32B-Instruct"], "no split fits cards"),
        (["--scale", "2"], "at least 3"),
        (["--measured", "nowhere"], "no run lies there"),
        (["--set", "policy.model=someone/something"], "its size is not known"),
    ],
)
def test_mistakes_are_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SD35, *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_of_another_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, [record(step) for step in range(12)])
    assert main([SD35, "--measured", str(folder)]) == 2
    assert "the run was measured with policy.model" in " ".join(capsys.readouterr().err.split())
