"""Several runs side by side: what compares is compared, what does not is said, and the page opens offline."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pytest

from pipelines.compare import main
from pipelines.reporting.side_by_side.curves import curves
from pipelines.reporting.side_by_side.heldout import blocks
from pipelines.reporting.side_by_side.recipes import differences
from pipelines.reporting.side_by_side.run import Run, read_run, unique_names
from pipelines.reporting.side_by_side.samples import samples, unlike
from pipelines.reporting.side_by_side.words import caveats
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import HeldoutRecord
from tests.support.flaky_s3 import FlakyS3
from tests.support.written_runs import Page, evaluation, images, metric

RECIPE = """
[run]
seed = {seed}
[loop]
steps = 4
[data]
heldout = "{heldout}"
[reward]
type = "promptecho"
size = {size}
[policy]
learning_rate = {rate}
"""
RUN = {"seed": 7, "heldout": "h.jsonl", "size": 1, "rate": 0.1}


def write_run(
    path: Path, steps: int = 4, after: float | None = 0.6, caption: str = "a red <circle>", **recipe: object
) -> Path:
    """A run of so many steps; one without `after` goes on, or was stopped."""
    folder = RunFolder.create(path, RECIPE.format(**RUN | recipe))
    folder.heldout(evaluation("before", 0, 1.0, 0.4))
    for step in range(1, steps + 1):
        folder.metric(metric(step, images=8))
    folder.save_grid("before-000000", [(caption, images(2))])
    if steps:
        folder.save_grid(f"after-{steps:06d}", [(caption, images(2))])
        last = evaluation("after", steps, 1.0, after or 0.5)
        folder.heldout(last if after else last.model_copy(update={"tag": "during", "by_prompt": None}))
        folder.state("done" if after else "stopped")
    return path


def runs_of(*paths: Path) -> list[Run]:
    return [read_run(path, str(path), path.name, place) for place, path in enumerate(paths)]


def page_of(tmp_path: Path, *paths: Path) -> Page:
    assert main([*map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    return Page(tmp_path / "page.html")


def test_runs_are_on_one_page_that_opens_offline_and_as_tables_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "a"), write_run(tmp_path / "b", after=0.7, rate=0.2))
    assert [place for place in page.loads if not place.startswith(("#", "data:"))] == []
    assert {"heldout", "curves", "samples", "recipes"} <= page.ids
    assert page.charts == 3 * 5  # over steps, images and seconds
    for part in ("a red <circle>", "policy.learning_rate", "equal seconds", "4 of 4"):
        assert part in page.text
    said = capsys.readouterr().out
    assert "policy.learning_rate  0.1 (a)  0.2 (b)" in said
    assert "+6.7 (+6.7 to +6.7)" in said
    assert said.rstrip().endswith("page.html")


def test_runs_are_compared_at_equal_steps_images_and_seconds(tmp_path: Path) -> None:
    run = runs_of(write_run(tmp_path / "a", steps=3))[0]
    assert run.at("step") == {0: 0, 1: 1, 2: 2, 3: 3}
    assert run.at("image") == {0: 0, 1: 8, 2: 16, 3: 24}
    assert run.at("second") == pytest.approx({0: 0, 1: 0.4, 2: 0.8, 3: 1.2})


def test_a_difference_is_paired_by_prompt_over_the_prompts_that_both_runs_have(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", after=0.7)
    RunFolder(b).heldout(_without(evaluation("after", 5, 1.0, 0.7), "counting-0"))
    block = blocks(runs_of(a, b))[0]
    second = block.rows[1].over_first
    assert block.first is not None
    assert block.first.name == "a"
    assert second is not None
    assert second.prompts == 8
    assert second.value == pytest.approx((0.1 + 0.1 + 0.0) / 3)


def _without(record: HeldoutRecord, prompt: str) -> HeldoutRecord:
    kept = {name: figures for name, figures in (record.by_prompt or {}).items() if name != prompt}
    return record.model_copy(update={"by_prompt": kept})


def test_runs_with_other_held_out_sets_are_not_compared_and_it_is_said(tmp_path: Path) -> None:
    found = blocks(runs_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", heldout="other.jsonl")))
    assert [[row.run.name for row in block.rows] for block in found] == [["a"], ["b"]]
    assert caveats(found[1]) == [
        "With data.heldout = other.jsonl.",
        "Only b was evaluated like this: there is nothing to compare it with.",
    ]


def test_rewards_compare_only_where_the_reward_is_the_same_whatever_its_pool(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for path, recipe in zip(paths, ({}, {"size": 2}, {"size": '2\nmodel = "x"'}), strict=True):
        RunFolder.create(path, RECIPE.format(**RUN | recipe)).heldout(evaluation("after", 4, 1.0, None))
    assert [[row.run.name for row in block.rows] for block in blocks(runs_of(*paths))] == [["a", "b"], ["c"]]


def test_each_of_several_rewards_is_compared_by_its_name_among_the_runs_that_have_it(tmp_path: Path) -> None:
    runs = runs_of(write_run(tmp_path / "a"), write_run(tmp_path / "b"), write_run(tmp_path / "c", rate=0.2))
    for run, names in zip(runs, ({}, {"echo": 0.5, "small": 2.0}, {"echo": 0.75}), strict=True):
        run.metrics[:] = [record.model_copy(update={"rewards": names}) for record in run.metrics]
    over_steps = {chart.title: [name for name, *_ in chart.legend] for chart in curves(runs, blocks(runs))[0][1]}
    assert {title for title in over_steps if title.startswith("Reward ")} == {"Reward echo", "Reward small"}
    assert (over_steps["Reward echo"], over_steps["Reward small"]) == (["b", "c"], ["b"])


def test_other_noise_is_said(tmp_path: Path) -> None:
    runs = runs_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=8))
    assert any("run.seed differs" in caveat for caveat in caveats(blocks(runs)[0]))
    assert unlike(samples(runs)) == ["Not from the same noise: the runs differ in run.seed."]


def test_a_run_that_was_stopped_stands_beside_others_with_its_last_figures_and_is_not_paired(tmp_path: Path) -> None:
    runs = runs_of(write_run(tmp_path / "a", steps=2, after=None), write_run(tmp_path / "b"))
    block = blocks(runs)[0]
    assert block.first is runs[1]
    assert [(row.total, row.over_first is None) for row in block.rows] == [(0.5, True), (0.6, True)]
    assert any(caveat.startswith("a: not evaluated at the end") for caveat in caveats(block))
    assert any("stopped early, after 2 of 4 steps" in note for note in runs[0].notes)
    page_of(tmp_path, *(tmp_path / name for name in "ab"))


def test_the_base_stands_above_the_runs_if_it_is_one_for_all(tmp_path: Path) -> None:
    alike = runs_of(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    other = runs_of(tmp_path / "a", write_run(tmp_path / "c", seed=8))
    assert [strip.run and strip.run.name for strip in samples(alike)[0][1]] == [None, "a", "b"]
    assert [strip.run and strip.run.name for strip in samples(other)[0][1]] == ["a", "c"]


def test_without_a_common_prompt_there_are_no_samples_and_a_sentence(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "a"), write_run(tmp_path / "b", caption="another"))
    assert "No prompt is in the samples of two runs" in page.text


def test_a_run_without_steps_and_a_run_of_another_program_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "scores", '[data]\nimages = "*.png"\n').path
    page = page_of(tmp_path, write_run(tmp_path / "new", steps=0), other)
    assert "new and scores: no trained steps, so no curves." in page.text


def test_what_is_damaged_is_left_out_and_said(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text(lines[0] + "{broken\n" + "".join(lines[2:]))
    (path / "summary.json").write_text("{")
    (path / "samples" / "after-000004.png").write_bytes(b"no picture")
    run = runs_of(path)[0]
    assert [record.step for record in run.metrics] == [1, 3, 4]
    assert [note.partition(" ")[0] for note in run.notes] == [
        "metrics.jsonl",
        "summary.json",
        "samples/after-000004.png",
    ]
    assert "Its 3 other lines are shown" in run.notes[0]
    page_of(tmp_path, path, write_run(tmp_path / "b"))


def test_recipes_of_any_form_are_compared_key_by_key(tmp_path: Path) -> None:
    one = RunFolder.create(tmp_path / "a", '[run]\nseed = 1\n[[reward]]\nname = "clip"\nweight = 1.0\n').path
    two = RunFolder.create(tmp_path / "b", "[run]\nseed = 1\n[loop]\nsteps = 3\n").path
    assert differences(runs_of(one, two)) == [
        ("reward.clip.name", ['"clip"', "–"]),
        ("reward.clip.weight", ["1.0", "–"]),
        ("loop.steps", ["–", "3"]),
    ]


def test_equal_digests_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    text = page_of(tmp_path, tmp_path / "a", tmp_path / "b").text
    assert "a and b have the same digest: equal to the bit." in text
    assert "the recipes are equal" in text


def test_runs_of_one_name_are_told_apart_by_the_folders_above() -> None:
    assert unique_names(["/x/1/run", "/x/2/run", "/x/toy"]) == ["1/run", "2/run", "toy"]
    assert unique_names(["/p/x/run", "/q/x/run", "s3://x/run"]) == ["p/x/run", "q/x/run", "/x/run"]


def test_nine_runs_have_nine_looks(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"run{n}", steps=2) for n in range(9)]
    page_of(tmp_path, *paths)
    html = (tmp_path / "page.html").read_text()
    assert (
        len(
            {look for look in (f'"run {style} c{n}"' for style in ("line", "dashed") for n in range(8)) if look in html}
        )
        == 9
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], "give from 2 to 16 runs"),
        (["a", "a/../a"], "the same run is given twice"),
        (["a", "nowhere"], "holds no run"),
        (["a", ""], "it is empty"),
        (["a", "b", "--out", "a"], "is a folder"),
        (["a", "b", "--out", "a/recipe.toml/x.html"], "is a file"),
    ],
)
def test_mistakes_end_with_a_sentence(
    tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", steps=1)
    write_run(tmp_path / "b", steps=1)
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_runs_at_urls_are_compared_and_nothing_is_written_there(tmp_path: Path, s3: str, flaky_s3: FlakyS3) -> None:
    here = write_run(tmp_path / "a")
    system = fsspec.filesystem("s3")
    system.put(str(here), f"{s3}/side/a", recursive=True)
    before = system.find(f"{s3}/side")
    assert main([str(here), f"{s3}/side/a", "--out", str(tmp_path / "page.html")]) == 0
    assert "side/a" in Page(tmp_path / "page.html").text
    assert system.find(f"{s3}/side") == before
