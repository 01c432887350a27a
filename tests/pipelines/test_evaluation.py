"""Held-out evaluation: what is drawn when, and what it adds up to."""

from collections import Counter

from actors.messages import Prompt
from pipelines.digest import FIRST, next_digest
from pipelines.evaluation import HeldoutPlan, Tally, extremes
from pipelines.heldout import summarise
from pipelines.tables import Heldout

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


def test_the_tally_is_a_mean_of_category_means():
    tally = Tally()
    tally.add("a", [1.0, 3.0], {"accuracy": [1.0, 0.0], "ghost": [0.0, 0.0]})
    tally.add("a", [2.0, 2.0], {"accuracy": [1.0, 1.0], "ghost": [0.0, 0.0]})
    tally.add("b", [6.0], {"accuracy": [0.0], "ghost": [1.0]})
    record = tally.record()
    assert record["images"] == 5
    assert record["reward"] == 4.0
    assert record["by_category"] == {"a": 0.75, "b": 0.0}
    assert record["accuracy"] == 0.375
    assert record["ghost"] == 0.5


def test_without_a_checker_there_is_no_accuracy():
    tally = Tally()
    tally.add("a", [1.0], {})
    assert tally.record()["accuracy"] is None


def test_the_summary_names_the_base_at_its_best_guidance():
    records = [
        {"tag": "before", "guidance": 1.0, "accuracy": 0.4, "reward": 0},
        {"tag": "before", "guidance": 3.0, "accuracy": 0.6, "reward": 0},
        {"tag": "during", "guidance": 1.0, "accuracy": 0.9, "reward": 0},
        {"tag": "after", "guidance": 1.0, "accuracy": 0.7, "reward": 0},
    ]
    summary = summarise(records)
    assert summary["before"]["accuracy"] == 0.4
    assert summary["before_best_guidance"]["guidance"] == 3.0
    assert summary["after"]["accuracy"] == 0.7
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
