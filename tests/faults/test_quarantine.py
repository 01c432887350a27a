"""A reward that always raises for one word: its groups are left out with their record, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

from pipelines.data.prompts import PromptOrder, load_prompts
from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of

STEPS = 4


def test_a_reward_that_raises_for_a_prompt_leaves_out_its_groups_alone(
    start: Start, reference: Reference, plain_world: Path
) -> None:
    length = {"loop__steps": STEPS, "heldout__images_per_category": 6}
    run = start(reward__size=2, reward__model="plain/deaf-to-green", **length)
    digest = digest_of(run)

    order = PromptOrder(load_prompts(str(plain_world.parent / "train.jsonl"), "train"), 0, 2, {})
    captions = {(step, group): order.prompt(step, group)[0].caption for step in range(1, STEPS + 1) for group in (0, 1)}
    unscorable = {place for place, caption in captions.items() if "green" in caption}
    assert 0 < len(unscorable) < len(captions)
    records = [event for event in run.events("quarantine") if event["purpose"] == "train"]
    assert {(record["step"], record["group"]) for record in records} == unscorable
    for record in records:
        assert record["caption"] == captions[record["step"], record["group"]]
        assert record["prompt_id"] == f"train-{record['caption'].removeprefix('a ').replace(' ', '-')}"
        assert len(record["noise_seeds"]) == 4
        assert "knows no green" in record["message"]
        assert (record["cause"], record["tries"]) == ("raised", 3)
    assert {event["caption"] for event in run.events("quarantine")} >= {"a green triangle", "a green cross"}

    tried = [event for event in run.events("failure") if (event["step"], event["group"]) in unscorable]
    workers = {event["worker"] for event in tried}  # more than two: one that fails three tasks in a row is replaced
    assert workers >= {"reward-0", "reward-1"}, "a retry goes to another worker"
    for metric in run.folder.read_metrics():
        scorable = sum((metric.step, group) not in unscorable for group in (0, 1))
        assert metric.images == 4 * scorable
        assert metric.reward_mean is None or metric.reward_mean < 0

    # a judge that answers NaN for the word fails in another way, and says the same of all other groups
    assert digest == reference(reward__model="plain/blind-to-green", **length)
