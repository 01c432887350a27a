"""Held-out evaluation: what is drawn when, and what it adds up to."""

import json
from collections import Counter

import pytest

from actors.messages import Prompt
from pipelines.engine.digest import FIRST, next_digest
from pipelines.evaluation.comparison import summarise
from pipelines.evaluation.draws import GRID_ROWS
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Heldout
from pipelines.run_folder.records import HeldoutRecord, PromptFigures
from pipelines.training.heldout_plan import HeldoutPlan, Judged, Tally, extremes

PROMPTS = [Prompt(f"{c}{i}", f"{c} {i}", c) for c, count in (("few", 2), ("many", 9)) for i in range(count)]
SETTINGS = Heldout(
    every=4,
    images_per_category=10,
    images_per_category_during=4,
    chunk=2,
    base_guidance_scales=(1.0, 3.0),
    guidance_scales=(1.0, 2.0),
)
PLAN = HeldoutPlan(PROMPTS, SETTINGS, steps=10)


def test_before_and_after_are_full_and_the_rest_is_a_prefix():
    assert PLAN.versions() == [0, 4, 8, 10]
    scales = {version: Counter(group.guidance_scale for group in PLAN.groups(version)) for version in PLAN.versions()}
    assert scales == {0: {1.0: 10, 3.0: 10}, 4: {1.0: 4}, 8: {1.0: 4}, 10: {1.0: 10, 2.0: 10}}
    assert PLAN.groups(4) == PLAN.groups(0)[:4]


def test_each_category_gets_its_images_over_all_its_prompts_and_none_twice():
    groups = [group for group in PLAN.groups(0) if group.guidance_scale == 1.0]
    assert Counter(group.prompt.category for group in groups) == {"few": 5, "many": 5}
    samples = [(group.prompt.id, group.first_sample + k) for group in groups for k in range(SETTINGS.chunk)]
    assert len(set(samples)) == len(samples)
    assert {group.prompt.id for group in groups if group.prompt.category == "few"} == {"few0", "few1"}


A, B = Prompt("1", "one", "a"), Prompt("2", "two", "b")
JUDGED = {
    0: Judged(A, [1.0, 3.0], {"accuracy": [1.0, 0.0], "ghost": [0.0, 0.0]}),
    2: Judged(A, [2.0, 2.0], {"accuracy": [1.0, 1.0], "ghost": [0.0, 0.0]}),
    1: Judged(B, [6.0], {"accuracy": [0.0], "ghost": [1.0]}),
}


def record_of(groups: dict[int, Judged], with_prompts: bool = False) -> HeldoutRecord:
    return Tally(groups).record("before", 0, 1.0, with_prompts)


def test_the_tally_is_a_mean_of_category_means():
    record = record_of(JUDGED)
    assert record.images == 5
    assert record.reward == 4.0
    assert record.checks_by_category == {"accuracy": {"a": 0.75, "b": 0.0}, "ghost": {"a": 0.0, "b": 1.0}}
    assert record.checks == {"accuracy": 0.375, "ghost": 0.5}
    assert (record.accuracy, record.by_category) == (0.375, {"a": 0.75, "b": 0.0})


def test_the_tally_does_not_depend_on_the_order_in_which_groups_were_scored():
    again = record_of({number: JUDGED[number] for number in (2, 0, 1)}, with_prompts=True)
    assert json.dumps(again.line()) == json.dumps(record_of(JUDGED, with_prompts=True).line())


def test_the_tally_keeps_the_means_of_each_prompt():
    prompts = record_of(JUDGED, with_prompts=True).by_prompt
    assert prompts is not None
    assert prompts["1"] == PromptFigures(category="a", images=4, reward=2.0, checks={"accuracy": 0.75, "ghost": 0.0})


def test_without_a_checker_there_is_no_accuracy():
    record = record_of({0: Judged(A, [1.0], {})})
    assert (record.accuracy, record.checks) == (None, {})


def test_a_figure_may_have_any_name():
    record = record_of({0: Judged(A, [1.0], {"images": [3.5], "reward": [0.5]})})
    assert (record.images, record.reward) == (1, 1.0)
    assert record.checks == {"images": 3.5, "reward": 0.5}


BY_PROMPT = Heldout(every=4, prompts=7, prompts_during=3, images_per_prompt=6, chunk=4)


def test_prompts_may_be_counted_instead_of_the_images_of_a_category():
    plan = HeldoutPlan(PROMPTS, BY_PROMPT, steps=10)
    assert BY_PROMPT.images_of_group == 3, "the most that chunk allows and that divides the images of a prompt"
    groups = [(group.prompt.id, group.first_sample) for group in plan.groups(0)]
    assert Counter(first for _, first in groups) == {0: 7, 3: 7}
    assert len({prompt for prompt, _ in groups}) == 7
    assert Counter(prompt[:3] for prompt, first in groups if first == 0) == {"few": 2, "man": 5}, (
        "in turn over categories"
    )
    during = [(group.prompt.id, group.first_sample) for group in plan.groups(4)]
    assert len(during) == 6
    assert set(during) <= set(groups)


def test_a_held_out_set_without_categories_shows_several_prompts():
    prompts = [Prompt(str(n), f"thing {n}") for n in range(20)]
    plan = HeldoutPlan(prompts, Heldout(images_per_prompt=4), steps=10)
    shown = [plan.groups(0)[group] for group in plan.shown(0)]
    assert len({group.prompt.id for group in shown}) == GRID_ROWS
    assert [group.prompt.id for group in shown] == [plan.groups(10)[group].prompt.id for group in plan.shown(10)]


def test_more_held_out_prompts_than_there_are_is_a_mistake():
    with pytest.raises(UserError, match=r"heldout\.prompts = 12, but the held-out set has 11 prompts"):
        HeldoutPlan(PROMPTS, Heldout(prompts=12), steps=10)


def test_the_summary_names_the_base_at_its_best_guidance():
    records = [
        HeldoutRecord(
            tag=tag, step=step, guidance=guidance, accuracy=accuracy, checks={"accuracy": accuracy}, by_prompt={}
        )
        for tag, step, guidance, accuracy in (
            ("before", 0, 1.0, 0.4),
            ("before", 0, 3.0, 0.6),
            ("during", 5, 1.0, 0.9),
            ("after", 10, 1.0, 0.7),
        )
    ]
    summary = summarise(records)
    assert summary["before"]["accuracy"] == 0.4
    assert summary["before_best_guidance"]["guidance"] == 3.0
    assert summary["after"]["accuracy"] == 0.7
    assert "by_prompt" not in summary["after"], "they are in heldout.jsonl"
    assert summarise([])["after"] is None


def test_extremes():
    assert extremes([(0.5, 1), (0.1, 2), (0.9, 3), (0.2, 4)], 2) == ([2, 4], [3, 1])


def test_the_digest_changes_with_everything_that_is_trained():
    base = (FIRST, 1, [("p", 0, [0.1, 0.2])], 0.5, "sha")
    variants = [
        base,
        ("1" * 64, *base[1:]),
        (FIRST, 2, *base[2:]),
        (FIRST, 1, [("q", 0, [0.1, 0.2])], 0.5, "sha"),
        (FIRST, 1, [("p", 1, [0.1, 0.2])], 0.5, "sha"),
        (FIRST, 1, [("p", 0, [0.1, 0.2 + 1e-16 + 2**-54])], 0.5, "sha"),
        (FIRST, 1, [("p", 0, [0.1, 0.2])], None, "sha"),
        (FIRST, 1, [("p", 0, [0.1, 0.2])], 0.5, "other"),
    ]
    assert len({next_digest(*variant) for variant in variants}) == len(variants)
    assert next_digest(*base) == next_digest(*base)
