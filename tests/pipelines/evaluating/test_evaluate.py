"""`evaluate` as it is called, in one process and with plain workers: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from pipelines.evaluating.work import CHECKS, COLUMNS
from pipelines.report import main as report
from pipelines.run_folder.shards import REASON
from pipelines.train import main as train_main
from tests.support.evaluate_world import main, write_evaluate
from tests.support.plain_run import in_no_time
from tests.support.runs import lines_of, overrides

ROOT = Path(__file__).resolve().parents[3]
IMAGES = 2 * 4 * 2  # categories, images of each, guidance scales


@pytest.fixture(scope="module")
def run(plain_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the plain world, with a checkpoint of each of its three steps."""
    out = tmp_path_factory.mktemp("run") / "run"
    options = overrides(
        loop__checkpoint_every=1, loop__keep_checkpoints=9, heldout__base_guidance_scales="[1.0]",
        heldout__guidance_scales="[1.0, 2.0]", heldout__groups_per_task=2,
    )  # fmt: skip
    assert in_no_time([str(plain_world), "--out", str(out), "--executor", "local", *options]) == 0
    return out


@pytest.fixture
def recipe(plain_world: Path, run: Path, tmp_path: Path) -> Path:
    lora = tmp_path / "lora"
    shutil.copytree(run / "checkpoints/step-000001/adapter", lora)
    (lora / "README.md").write_text("---\nbase_model: plain/image\n---\n")
    models = {"trained": run, "second": run / "checkpoints/step-000002", "first": lora}
    return write_evaluate(plain_world, tmp_path / "evaluate.toml", models)


def evaluate(recipe: Path, out: Path, *more: str) -> int:
    return main([str(recipe), "--out", str(out), "--executor", "local", *more])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "judged").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def summary_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


def test_a_base_a_run_a_checkpoint_and_a_lora_stand_in_one_table(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate(recipe, out) == 0
    rows, summary = rows_of(out), summary_of(out)
    assert [row["row"] for row in rows] == list(range(4 * IMAGES))
    assert list(summary["models"]) == ["base", "trained", "second", "first"]
    assert {name: said["step"] for name, said in summary["models"].items() if name != "first"} == {
        "base": None, "trained": 3, "second": 2,
    }  # fmt: skip
    trained = summary["models"]["trained"]
    assert trained.keys() >= {"accuracy", "by_category", "rewards"}
    own = [row for row in rows if (row["model"], row["guidance"]) == ("trained", 1.0)]
    means = {
        category: np.mean([dict(row["checks"])["accuracy"] for row in own if row["category"] == category])
        for category in ("triangle", "cross")
    }
    assert trained["by_category"] == means
    assert trained["accuracy"] == np.mean(list(means.values()))
    assert (summary["status"], summary["written"], summary["failed"]) == ("done", 4 * IMAGES, 0)
    assert summary["seconds"] > 0
    said = capsys.readouterr().out
    assert "trained" in said
    assert "95 % interval" in said


def two_rewards(recipe: Path, name: str) -> Path:
    """The recipe with another reward beside its own, which is named `one`."""
    text = recipe.read_text().replace("[reward]", '[[reward]]\nname = "one"')
    recipe.write_text(f'{text}\n[[reward]]\nname = "{name}"\nmodel = "plain/taste-{name}"\n')
    return recipe


def test_each_of_two_rewards_has_a_column_and_figures_of_its_own(recipe: Path, tmp_path: Path) -> None:
    assert evaluate(two_rewards(recipe, "other"), tmp_path / "out") == 0
    rows, trained = rows_of(tmp_path / "out"), summary_of(tmp_path / "out")["models"]["trained"]
    own = [row for row in rows if (row["model"], row["guidance"]) == ("trained", 1.0)]
    assert trained["rewards"].keys() == {"one", "other"}
    for name, mean in trained["rewards"].items():
        assert mean == pytest.approx(np.mean([row[name] for row in own]))
    assert all(row["one"] != row["other"] for row in rows)


@pytest.mark.parametrize("column", [*COLUMNS, CHECKS, REASON])
def test_a_reward_may_not_be_named_as_another_column_is(
    recipe: Path, tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(two_rewards(recipe, column), tmp_path / "out") == 2
    assert f'reward.name = "{column}": another column has that name' in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_every_model_draws_the_same_prompts_and_seeds_and_another_adapter_draws_otherwise(
    recipe: Path, tmp_path: Path
) -> None:
    evaluate(recipe, tmp_path / "out")
    drawn: dict[str, list[tuple]] = {}
    scores: dict[str, list[float]] = {}
    for row in rows_of(tmp_path / "out"):
        drawn.setdefault(row["model"], []).append((row["prompt_id"], row["sample"], row["seed"], row["guidance"]))
        scores.setdefault(row["model"], []).append(row["promptecho"])
    assert len({tuple(each) for each in drawn.values()}) == 1
    assert len({tuple(each) for each in scores.values()}) == 4


def test_a_runs_last_checkpoint_has_the_figures_that_the_run_itself_recorded(
    recipe: Path, run: Path, tmp_path: Path
) -> None:
    evaluate(recipe, tmp_path / "out")
    own = [line for line in lines_of(run / "heldout.jsonl") if line["tag"] == "after"]
    ways = summary_of(tmp_path / "out")["models"]["trained"]["ways"]
    assert len(own) == len(ways) == 2
    for line, way in zip(own, ways, strict=True):
        assert way["guidance"] == line["guidance"]
        assert {name: said["mean"] for name, said in way["checks"].items()} == line["checks"]
        assert {name: said["by_category"] for name, said in way["checks"].items()} == line["checks_by_category"]
        assert way["rewards"]["promptecho"]["mean"] == line["reward"]


def test_other_seeds_draw_other_images_and_each_counts(recipe: Path, tmp_path: Path) -> None:
    evaluate(recipe, tmp_path / "out", "--set", "heldout.seeds=[0, 7]", "--set", "heldout.sizes=[[32, 32], [16, 32]]")
    rows, summary = rows_of(tmp_path / "out"), summary_of(tmp_path / "out")
    assert len(rows) == 4 * 4 * IMAGES
    ways = summary["models"]["base"]["ways"]
    assert [(way["height"], way["guidance"], way["images"]) for way in ways] == [
        (32, 1.0, 16), (32, 2.0, 16), (16, 1.0, 16), (16, 2.0, 16),
    ]  # fmt: skip
    by_seed = [[row["promptecho"] for row in rows[:32] if row["seed"] == seed] for seed in (0, 7)]
    assert by_seed[0] != by_seed[1]


def test_what_cannot_be_judged_has_no_figure_but_a_reason(plain_world: Path, tmp_path: Path) -> None:
    recipe = write_evaluate(plain_world, tmp_path / "evaluate.toml", {}, judge="plain/deaf-to-green")
    assert evaluate(recipe, tmp_path / "out") == 0
    failed = [row for row in rows_of(tmp_path / "out") if row["reason"]]
    assert {row["caption"].split()[1] for row in failed} == {"green"}
    assert {row["promptecho"] for row in failed} == {None}
    assert all(dict(row["checks"]).keys() == {"accuracy", "ghost"} for row in failed), "the checker saw them"
    summary = summary_of(tmp_path / "out")
    assert summary["failed"] == len(failed) > 0
    assert summary["models"]["base"]["ways"][0]["failed"] == len(failed) / 2


def test_a_run_that_goes_on_judges_what_is_not_written_and_has_the_digest_of_one_that_was_never_stopped(
    recipe: Path, run: Path, tmp_path: Path
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    evaluate(recipe, whole)
    shutil.copytree(whole, halved)
    kept = sorted((halved / "judged").glob("*.parquet"))
    for path in kept[1::2]:
        path.unlink()
    kept[2].write_bytes(b"PAR1 and then the power went")  # only a whole file counts
    written_at = kept[0].stat().st_mtime_ns
    assert evaluate(recipe, halved, "--resume") == 0
    assert kept[0].stat().st_mtime_ns == written_at
    assert rows_of(halved) == rows_of(whole)
    assert summary_of(halved)["digest"] == summary_of(whole)["digest"]


def test_a_run_that_goes_on_draws_with_what_it_began_with_whatever_became_of_the_checkpoint(
    plain_world: Path, run: Path, tmp_path: Path
) -> None:
    moving = tmp_path / "moving"
    shutil.copytree(run, moving)
    recipe = write_evaluate(plain_world, tmp_path / "evaluate.toml", {"trained": moving})
    evaluate(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "halved")
    shutil.rmtree(tmp_path / "halved/judged")
    shutil.rmtree(moving / "checkpoints/step-000003")
    assert evaluate(recipe, tmp_path / "halved", "--resume") == 0
    assert rows_of(tmp_path / "halved") == rows_of(tmp_path / "whole")


def test_a_run_and_the_run_folder_may_lie_on_s3(plain_world: Path, run: Path, s3: str, tmp_path: Path) -> None:
    there, s3fs = f"{s3}/{tmp_path.name}", fsspec.filesystem("s3")
    s3fs.put(f"{run}/", f"{there}/run/", recursive=True)
    here = write_evaluate(plain_world, tmp_path / "here.toml", {"trained": run})
    afar = write_evaluate(plain_world, tmp_path / "afar.toml", {"trained": f"{there}/run"})
    evaluate(here, tmp_path / "out")
    assert main([str(afar), "--out", f"{there}/out", "--executor", "local"]) == 0
    s3fs.rm(s3fs.glob(f"{there}/out/judged/*.parquet")[1])
    s3fs.rm(f"{there}/run", recursive=True)
    assert main([str(afar), "--out", f"{there}/out", "--executor", "local", "--resume"]) == 0
    with fsspec.open(f"{there}/out/summary.json") as file:
        assert json.load(file)["digest"] == summary_of(tmp_path / "out")["digest"]


def test_the_page_shows_all_models_and_the_same_prompts_side_by_side(recipe: Path, tmp_path: Path) -> None:
    evaluate(recipe, tmp_path / "out")
    written = (tmp_path / "out/report.html").read_text()
    (tmp_path / "out/report.html").unlink()
    assert report([str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert page.split("<footer>")[0] == written.split("<footer>")[0]
    for words in ("trained<small", "run, step 3, on plain/image", "guidance 2", "95 % interval"):
        assert words in page
    assert page.count("data:image/png;base64") == 4 * 8 * 2  # prompts, columns, images of a sheet
    assert "http" not in page.replace("http://www.w3.org", "")


def other_lora(folder: Path) -> Path:
    """A LoRA of layers that the toy model does not have."""
    folder.mkdir()
    tensors = {f"transformer.easel.lora_{side}.weight": np.zeros((2, 2), np.float32) for side in "AB"}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere at all", "there is no such model: give a base (a folder with model_index.json"),
        ("{here}", "the folder holds no LoRA"),
        ("{here}/evaluate.toml", "cannot be read as safetensors"),
        ("{here}/other", "name that with rollout.base"),
        ("{here}/cut", "holds no whole checkpoint"),
    ],
)
def test_what_is_no_model_is_told_before_any_worker_starts(
    plain_world: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, told: str
) -> None:
    other_lora(tmp_path / "other")
    shutil.copytree(run, tmp_path / "cut", ignore=shutil.ignore_patterns("manifest.json"))
    recipe = write_evaluate(plain_world, tmp_path / "evaluate.toml", {"x": place.format(here=tmp_path)})
    assert evaluate(recipe, tmp_path / "out") == 2
    said = capsys.readouterr()
    assert "models.x = " in said.err
    assert told.replace("holds no whole", "has no whole") in said.err
    assert "workers" not in said.out
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_or_lora_of_another_base_is_told_before_any_worker_starts(
    plain_world: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (run, other_lora(tmp_path / "other")):
        recipe = write_evaluate(plain_world, tmp_path / "evaluate.toml", {"x": model})
        assert evaluate(recipe, tmp_path / "out", "--set", f"rollout.base={ROOT}/toy/models/image") == 2
        assert "it was made for another model than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--set", "heldout.chunks=4"), "did you mean chunk?"),
        (("--set", "policy.model=x"), "allowed are"),
        (("--set", 'models={"a b" = "x"}'), "letters, digits"),
        (("--set", "models={}"), "models"),
        (("--set", "heldout.checker=toy.checker:chek"), "did you mean check?"),
        (("--set", 'models={".." = "x"}'), "letters, digits"),
        (("--set", "heldout.prompts=99"), "the held-out set has 6 prompts"),
        (("--set", "heldout.seeds=[0, 0]"), "heldout.seeds = [0, 0]: a value stands there twice"),
        (("--set", "heldout.sizes=[[32, 32], [32, 32]]"), "a value stands there twice"),
        (("--set", "heldout.guidance_scales=[1.0, 1.0]"), "a value stands there twice"),
        (("--set", "heldout.sizes=[[30, 32]]", "--set", f"models.base={ROOT}/toy/models/image"), "draws multiples of"),
        (("--set", "data.caption=captoin"), "no prompt has such a field"),
    ],
)
def test_a_mistake_in_the_recipe_ends_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    assert evaluate(recipe, tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_neither_another_model_nor_another_way_may_be_given_to_a_run_that_goes_on(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(recipe, tmp_path / "out")
    assert evaluate(recipe, tmp_path / "out", "--resume", "--set", "reward.size=2") == 0
    assert evaluate(recipe, tmp_path / "out", "--resume", "--set", "models.base=plain/other") == 2
    assert "models.base = 'plain/other' (the run has" in capsys.readouterr().err
    assert evaluate(recipe, tmp_path / "out", "--resume", "--set", "heldout.steps=9") == 2


def test_the_real_models_give_a_run_the_figures_that_it_recorded_itself(tiny_world: Path, tmp_path: Path) -> None:
    """The base, the trained LoRA merged into it, and the checker: to the last bit, as the run's own workers had them."""
    from pipelines.evaluate import main as real_main

    out = tmp_path / "run"
    options = overrides(policy__learning_rate=0.05, heldout__every=9, heldout__groups_per_task=2)
    assert train_main([str(tiny_world), "--out", str(out), "--executor", "local", *options]) == 0
    world = tiny_world.parent
    recipe = write_evaluate(tiny_world, tmp_path / "evaluate.toml", {"trained": out}, judge=f"{world}/judge")
    base = overrides(models__base=f"{world}/image", heldout__guidance_scales="[1.0]")
    assert real_main([str(recipe), "--out", str(tmp_path / "out"), "--executor", "local", *base]) == 0
    own = {line["tag"]: line for line in lines_of(out / "heldout.jsonl") if line["guidance"] == 1.0}
    for name, tag in (("base", "before"), ("trained", "after")):
        found = summary_of(tmp_path / "out")["models"][name]
        assert found["accuracy"] == own[tag]["accuracy"]
        assert found["by_category"] == own[tag]["by_category"]
        assert found["rewards"]["promptecho"] == own[tag]["reward"]
    assert own["before"]["reward"] != own["after"]["reward"]
