"""The display: one line a step without a terminal, a live view with one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster import speaking
from cluster.speaking import Outlet
from pipelines.monitoring.terminal import Display, heldout_table, sparkline, step_words
from pipelines.monitoring.watchers import Watchers
from pipelines.run_folder.records import HeldoutRecord, StepRecord, Tag


def shown(terminal: bool, note: str = "group [3] of step 2 is quarantined") -> str:
    out = io.StringIO()
    with Watchers(Display(3, "EchoRay · test", Console(file=out, force_terminal=terminal, width=100))) as display:
        for settled in (0, 3, 4):
            display.status({"pools": {}, "evaluating": {"step": 0, "settled": settled, "groups": 12}})
        display.heldout(HeldoutRecord(tag="before", step=0, checks={"accuracy": 0.4}, reward=0.5, images=60))
        for step in (1, 2, 3):
            display.step(StepRecord(step=step, reward_mean=0.25 * step, reward_std=0.125, seconds={"step": 0.5}))
            display.status({"pools": {"rollout": {"wanted": 2, "ready": 1, "busy": 1}}})
        display.note(note)
        if not terminal:
            display.step(StepRecord(step=3, reward_mean=None, kl_reference=float("nan")))
    return out.getvalue()


def test_without_a_terminal_there_is_a_plain_line_a_step() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "EchoRay · test: 3 steps"
    assert lines[1] == "evaluating the base on held-out prompts: 3 of 12 groups"
    assert lines[2] == "held out at step 0: accuracy 40.0%, reward 0.500 (guidance 1, 60 images)"
    assert lines[3].strip() == "step    1/3  reward 0.250 ±0.125  step 0.50 s"
    assert lines[4].startswith("step    2/3  reward 0.500 ±0.125  step 0.50 s  left ")
    assert lines[6] == "group [3] of step 2 is quarantined"
    assert lines[7].startswith("step    3/3  reward –")
    assert "\x1b" not in "".join(lines)


def test_the_line_of_a_step_says_all_that_matters_in_160_characters() -> None:
    record = StepRecord(
        step=12_345,
        reward_mean=-12.345,
        reward_std=10.123,
        loss=-1.234e-05,
        staleness_mean=1.25,
        images_per_s=1234.5,
        seconds={"step": 1234.56},
        busy={"rollout": 1.0, "reward": 0.97, "policy": 0.5},
    )
    words = step_words(record)
    assert words == (
        "reward -12.345 ±10.123  loss -1.23e-05  staleness 1.2  images/s 1234.5  step 1234.56 s"
        "  busy rollout 100% reward 97% policy 50%"
    )
    assert len(f"step 12345/12345  {words}  left 99:59:59") <= 160


def test_with_a_terminal_the_state_is_shown() -> None:
    text = shown(terminal=True)
    for words in ("3/3", "▁▅█  0.750 ±0.125", "40.0%", "rollout 1/1 busy (2 wanted)", "group [3] of step 2"):
        assert words in text


def test_a_sparkline_shows_the_course_in_a_bounded_width() -> None:
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([float(value) for value in range(1000)], width=40)) == 40


def evaluation(tag: Tag, step: int, **by_category: float) -> HeldoutRecord:
    """One whose checker gives two figures: of "legible" this, and a "beauty" of 5.25."""
    mean = sum(by_category.values()) / len(by_category)
    checks = {"legible": mean, "beauty [/b]": 5.25}
    of_category = {"legible": by_category, "beauty [/b]": dict.fromkeys(by_category, 5.25)}
    return HeldoutRecord(tag=tag, step=step, reward=0.5, checks=checks, checks_by_category=of_category)


def test_the_table_gives_every_category_the_gain_and_all_figures_of_a_checker() -> None:
    before, after = (
        evaluation("before", 0, colours=0.5, counting=0.3),
        evaluation("after", 9, colours=0.9, counting=0.3),
    )
    out = io.StringIO()
    Console(file=out, width=100).print(heldout_table([before, after]))
    assert "Held-out legible, %" in out.getvalue()
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["colours", "50.0", "90.0", "+40.0"] in rows
    assert ["counting", "30.0", "30.0", "+0.0"] in rows
    assert ["macro", "40.0", "60.0", "+20.0"] in rows
    assert ["beauty", "[/b]", "5.250", "5.250", "+0.000"] in rows


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_that_is_lost_lets_the_display_go_and_nothing_else(terminal: bool) -> None:
    events: list[str] = []
    with open("/dev/full", "w") as full:
        console = speaking.console(file=Outlet(full), force_terminal=terminal)
        with Watchers(Display(3, "test", console), event=lambda event: events.append(event.kind)) as display:
            for step in (1, 2, 3):
                display.step(StepRecord(step=step, reward_mean=0.5))
                display.status({"pools": {}})
        assert events == ["watcher_lost"]


def test_users_words_are_shown_as_they_are() -> None:
    words = "size [/cm] :smile:"
    for terminal in (False, True):
        out = io.StringIO()
        console = speaking.console(file=out, force_terminal=terminal, width=100)
        with Watchers(Display(3, words, console)) as display:
            display.note(words)
        assert out.getvalue().count(words) >= 2
    console = speaking.console(file=out, width=100)
    console.print(heldout_table([evaluation("before", 0, **{words: 0.5})]))
    assert f" {words} " in out.getvalue()
