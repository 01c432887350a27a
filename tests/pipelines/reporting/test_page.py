"""The report: one page that needs nothing from elsewhere, whatever part of a run there is to show."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pipelines.engine.digest import FIRST
from pipelines.report import main
from pipelines.reporting.curves import Palette, learning_charts
from pipelines.reporting.page import write_report
from pipelines.reporting.timeline import timeline
from pipelines.reporting.words import coloured, echo_style, words_of
from pipelines.run_folder.events import EqualGroups, PolicyLost, RunFailed, Started
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.records import HeldoutRecord, StepRecord, Timeline
from tests.support.written_runs import Page, evaluation, images, metric

RECIPE = '[run]\nname = "a test"\nseed = 7\n\n[loop]\nsteps = 4\norder = "strict"\n'
TIMELINE = {
    "chunks": [
        {"group": 0, "chunk": 0, "draw": [0.0, 0.4], "score": [0.5, 0.6]},
        {"group": 1, "chunk": 0, "draw": [0.4, 0.8], "score": [0.8, 0.9]},
    ],
    "left_out": 3,
    "update": [1.0, 1.5],
}


def finished_run(path: Path) -> RunFolder:
    folder = RunFolder.create(path, RECIPE)
    for tag, step, guidance, accuracy in (("before", 0, 1.0, 0.4), ("before", 0, 2.0, 0.5), ("during", 2, 1.0, 0.55)):
        folder.heldout(evaluation(tag, step, guidance, accuracy))
    folder.heldout(evaluation("after", 4, 1.0, 0.65))
    folder.heldout(evaluation("after", 4, 2.0, 0.7))
    for step in range(1, 5):
        folder.metric(metric(step, **({"timeline": TIMELINE} if step == 2 else {})))
    for name in ("after-000004", "during-000002", "before-000000"):
        folder.save_grid(name, [("a red <circle>", images(2))])
    folder.save_grid("tokens-worst-0", [("a red <circle>", images(2))])
    tokens = {"tokens": ["a", "red", "<circle>"], "log_probs_KT": [[-0.1, -2.5, -0.3], [-0.1, math.nan, -0.2]]}
    folder.tokens(
        [{"which": "worst", "step": 4, "rewards_K": [0.3, 0.6], "image": "samples/tokens-worst-0.png", **tokens}]
    )
    command, versions = "python -m pipelines.train a.toml", {"torch": "2.13.0"}
    folder.event(
        Started(command=command, host="h1", machine="2 cores", git_revision=None, versions=versions, workers={})
    )
    folder.event(PolicyLost(step=3, doing="update", cause="raised", message="the loss is <nan>"))
    folder.summary(
        {"digest": "d1" * 32, "seconds": 251.0, "images": 64, "notes": ["The base was misaligned on purpose."]}
    )
    folder.state("done")
    return folder


def test_a_finished_run_is_shown_whole_and_loads_nothing(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    path = write_report(tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    page = Page(path)
    pictures = [value for value in page.loads if value.startswith("data:image/")]
    anchors = {value.removeprefix("#") for value in page.loads if value.startswith("#")}
    assert pictures
    assert len(pictures) + len(anchors) == len(page.loads)
    assert anchors == {"heldout", "samples", "learning", "judge", "machines", "timeline", "starts", "events", "recipe"}
    assert anchors <= page.ids, "what the contents name is there"
    source = path.read_text()
    assert not [word for word in ("http://", "https://", "@import", "url(") if word in source]
    for words in (
        "a test",
        "done",
        "d1" * 32,
        "The base was misaligned on purpose.",
        "4 min 11 s",
        "the loss is <nan>",
    ):
        assert words in page.text
    assert "+25.0 points, no guidance, over 3 categories; 95 % interval +16.7 to +16.7 points" in page.text
    assert "by bootstrap over 9 prompts" in page.text
    assert "python -m pipelines.train a.toml" in page.text
    assert "torch 2.13.0" in page.text
    assert "The first 2 of 5 chunks." in page.text
    assert re.search(r"ghost\s*4.0 %\s*4.0 %\s*4.0 %", page.text)
    assert "+20.0 points over the base at its best (guidance 2)" in page.text
    assert "standard error of one category is at most 6.1 points" in page.text
    assert len(pictures) == 3 * 2 + 2  # three snapshots of two images, and the two of the worst group
    assert page.charts == 13
    assert re.search(r"before\s*step 2\s*after\s*a red <circle>", page.text)


def test_no_change_is_neither_good_nor_bad(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    rows = re.findall(r'class="gain ?(\w*)">([^<]*)<', write_report(tmp_path / "run").read_text())
    assert rows == [("rose", "+25.0 points"), ("rose", "+25.0 points"), ("", "+0.0 points"), ("rose", "+25.0 points")]


def test_each_of_several_rewards_has_a_card_since_normalised_together_they_are_0(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    for step in (1, 2):
        folder.metric(metric(step, rewards={"echo": 0.25 * step, "small": -2.0 / step}))
    write_report(folder.path)
    text = " ".join(Page(folder.path / "report.html").text.split())
    assert "Training reward echo0.25 → 0.5" in text
    assert "Training reward small−2 → −1" in text
    assert text.count("Training reward") == 2


def test_each_of_several_rewards_has_a_chart_with_its_held_out_figures() -> None:
    metrics = [metric(step, rewards={"echo": 0.5, "small": -2.0}) for step in (1, 2)]
    heldout = [evaluation("before", 0, 1.0, None).model_copy(update={"rewards": {"echo": 0.25, "small": -3.0}})]
    palette = Palette.of(metrics, heldout)
    charts = {
        chart.title: [(name, value) for name, *_, value in chart.legend]
        for chart in learning_charts(metrics, heldout, palette)
    }
    assert [title for title in charts if title.startswith("Reward ")] == [
        "Reward echo", "Reward small", "Reward by category",
    ]  # fmt: skip
    assert charts["Reward small"] == [("training prompts", "−2"), ("held-out prompts", "−3")]
    one = learning_charts([metric(1), metric(2)], heldout, palette)
    assert [chart.title for chart in one if chart.title.startswith("Reward ")] == ["Reward by category"]


def test_a_category_has_one_colour_everywhere(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    palette = Palette.of([metric(1)], [evaluation("before", 0, 1.0, 0.4)])
    assert len({palette.color(category) for category in ("colours", "counting", "even")}) == 3
    for category in ("colours", "counting"):
        color = palette.color(category)
        assert f'<i class="swatch c{color}"></i>{category}' in page
        legends = re.findall(rf'<i class="key-\w+ c(\d)"></i>{category} ', page)
        assert set(legends) == {str(color)}
        assert len(legends) == 2, "of the held-out figure, and of the reward"


def test_a_timeline_shows_each_chunk_drawn_scored_and_trained() -> None:
    svg = str(timeline(2, Timeline(**TIMELINE)).svg)
    bars = re.findall(r"<rect[^>]*><title>([^<]*)", svg)
    assert len(bars) == 6
    assert bars[:3] == [
        "group 0, chunk 0: drawn in 0.4 s, from 0 s",
        "group 0, chunk 0: scored in 0.1 s, from 0.5 s",
        "group 0, chunk 0: trained in 0.5 s, from 1 s",
    ]


def test_a_warning_of_equal_groups_stands_before_the_figures(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    folder.event(EqualGroups(step=3, message="12 of 12 groups score alike"))
    text = Page(write_report(tmp_path / "run")).text
    assert 0 < text.index("Warning: 12 of 12 groups score alike") < text.index("Held-out accuracy")


def test_a_caption_cannot_become_markup(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    assert "<circle>" not in write_report(tmp_path / "run").read_text()


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", RECIPE)
    page = Page(write_report(tmp_path / "run"))
    assert "running" in page.text
    assert "0 of 4" in page.text
    assert page.charts == 0


def test_a_stopped_run_says_so_and_shows_its_last_evaluation(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.heldout(evaluation("before", 0, 1.0, 0.4))
    folder.heldout(evaluation("during", 2, 1.0, 0.55))
    folder.metric(metric(1))
    folder.state("stopped")
    text = Page(write_report(tmp_path / "run")).text
    assert "This run stopped early, after 1 of 4 steps. Go on with --resume." in text
    assert "step 2" in text
    assert "+15.0 points" in text


def test_a_run_that_was_stopped_before_its_first_step_has_no_digest_and_nothing_to_go_on_from(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.summary({"status": "stopped", "steps": 0, "digest": FIRST})
    folder.state("stopped")
    text = write_report(folder.path).read_text()
    assert "This run was stopped before its first step was done. Begin it with --resume." in text
    assert FIRST not in text


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.event(RunFailed(message="8 groups in a row were quarantined"))
    folder.state("failed")
    text = Page(write_report(tmp_path / "run")).text
    assert "This run failed, after 0 of 4 steps. 8 groups in a row were quarantined." in text


def test_without_a_checker_rewards_are_compared(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.heldout(evaluation("before", 0, 1.0, None, reward=-1.5))
    folder.heldout(evaluation("after", 4, 1.0, None, reward=-1.25))
    text = Page(write_report(tmp_path / "run")).text
    assert "Held-out reward" in text
    assert "Held-out accuracy" not in text
    assert "+0.250" in text


def test_records_with_nothing_but_their_step_are_shown(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "[run]\n")
    folder.metric(StepRecord(step=1))
    folder.metric(StepRecord(step=2, reward_mean=None, staleness=[], seconds={}, busy={}))
    folder.heldout(HeldoutRecord(step=0, tag="before"))
    folder.tokens(
        [{"which": "best", "tokens": ["a"], "log_probs_KT": [[None]], "rewards_K": [None], "image": "gone.png"}]
    )
    (folder.path / "events.jsonl").write_text('{"kind": "of_another_version"}\n{"kind": "started", "time": 1.0}\n')
    assert "Best group".lower() in Page(write_report(tmp_path / "run")).text.lower()


def test_an_order_that_depends_on_timing_is_marked(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", RECIPE.replace("strict", "ready"))
    assert "Not reproducible" in Page(write_report(tmp_path / "run")).text


def test_a_folder_without_a_run_is_a_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_the_program_prints_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(tmp_path / "run", RECIPE)
    assert main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["a", "red", "circle"], "a red circle"),
        (["A", "Ġred", "Ġcirc", "le"], "A red circle"),
        (["▁a", "▁red", "ness"], " a redness"),
        (["a", "red", "##ness"], "a redness"),
        (["一", "个", "▁圆"], "一个 圆"),
    ],
)
def test_tokens_read_as_the_caption(tokens: list[str], text: str) -> None:
    assert "".join(words_of(tokens)) == text


def test_the_colour_goes_from_orange_over_clear_to_blue() -> None:
    assert echo_style(0.25).endswith("0.00)")
    assert echo_style(0.0) == "background: rgba(219, 90, 18, 0.62)"
    assert echo_style(1.0) == "background: rgba(22, 110, 214, 0.62)"
    assert echo_style(None) == ""


def test_a_word_carries_its_log_probability() -> None:
    (word,) = coloured([" red"], [math.log(0.5)])
    assert (word["space"], word["text"], word["title"]) == (" ", "red", "log p −0.69, p 50 %")
