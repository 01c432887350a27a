"""Prompt sets: mistakes are found, and the order is a pure function of the seed."""

import json
from collections import Counter

import pytest

from actors.messages import Prompt
from pipelines.config import UserError
from pipelines.prompts import PromptOrder, load_prompts


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_fields_ids_and_categories(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        {"caption": "a cat"},
        "",
        {"id": 7, "caption": "a dog", "category": "animals", "objects": ["dog"]},
        {"caption": "a cat"},
    )
    first, second = load_prompts(path, "data.train")
    assert (first.caption, first.category, len(first.id)) == ("a cat", "all", 16)
    assert second == Prompt("7", "a dog", "animals", {"objects": ["dog"]})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"caption": "  "}], "line 1: the caption is empty"),
        ([{"caption": "a"}, "{caption"], "line 2: not JSON"),
        ([["a"]], "no text field `caption`"),
        ([{"text": "a"}], "no text field `caption`"),
        (
            [{"id": "x", "caption": "a"}, {"id": "x", "caption": "b"}],
            "the id 'x' was given before with another caption",
        ),
        ([""], "holds no prompts"),
    ],
)
def test_a_mistake_is_named(tmp_path, lines, message):
    with pytest.raises(UserError) as error:
        load_prompts(write(tmp_path / "p.jsonl", *lines), "data.train")
    assert message in str(error.value)


def test_a_missing_file_names_the_key():
    with pytest.raises(UserError, match=r"data.heldout = 'nowhere.jsonl': there is no such file"):
        load_prompts("nowhere.jsonl", "data.heldout")


def prompts(*counts):
    return tuple(
        Prompt(f"{c}{i}", f"{c} {i}", c) for c, count in zip("abc", counts, strict=False) for i in range(count)
    )


def test_every_epoch_has_each_prompt_once_in_another_order():
    order = PromptOrder(prompts(6), seed=1, prompts_per_step=4, mix={})
    stream = [order.prompt(step, group) for step in range(1, 10) for group in range(4)]
    epochs = [[prompt.id for prompt, epoch in stream if epoch == wanted] for wanted in range(6)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_the_order_depends_on_the_seed_alone():
    def ids(seed, steps):
        order = PromptOrder(prompts(6), seed, 4, {})
        return {step: [order.prompt(step, group)[0].id for group in range(4)] for step in steps}

    assert ids(1, [1, 2, 3])[3] == ids(1, [3])[3]
    assert ids(1, [1, 2, 3]) != ids(2, [1, 2, 3])


def test_a_mix_gives_each_category_its_share():
    order = PromptOrder(prompts(5, 3, 9), seed=1, prompts_per_step=4, mix={"a": 1, "c": 3})
    for step in range(1, 8):
        assert Counter(order.prompt(step, group)[0].category for group in range(4)) == {"a": 1, "c": 3}
    assert len({order.prompt(step, 0)[0].id for step in range(1, 6)}) == 5


def test_a_mix_of_unknown_categories_is_refused():
    with pytest.raises(UserError, match="does not have: d; it has a, b"):
        PromptOrder(prompts(2, 2), 0, 2, {"a": 1, "d": 1})
