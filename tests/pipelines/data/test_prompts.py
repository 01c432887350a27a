"""Prompt sets: mistakes are found, and the order is a pure function of the seed."""

import hashlib
import json
from collections import Counter

import pytest

from actors.messages import Prompt
from actors.seeds import seed_of
from pipelines.data.prompts import PromptList, PromptOrder, load_prompt_sets, load_prompts
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Data
from pipelines.training.beginning import sha256_of


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
        ([{"caption": "a"}, 3], "line 2: a number, but an object such as"),
        (
            [{"name": "a", "url": "b"}],
            "line 1: no field for the caption: it has name, url. The common names are caption,",
        ),
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


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'{"caption": "caf\xe9"}')
    with pytest.raises(UserError, match=r"p.jsonl is not text in UTF-8"):
        load_prompts(str(tmp_path / "p.jsonl"), "data.train")


def test_held_out_captions_may_not_be_trained_on(tmp_path):
    train = write(tmp_path / "train.jsonl", {"caption": "a cat"}, {"caption": "a dog"})
    heldout = write(tmp_path / "heldout.jsonl", {"caption": "a cow"}, {"caption": "a dog"})
    with pytest.raises(UserError, match=r"1 captions of data.heldout are also in data.train, the first is 'a dog'"):
        load_prompt_sets(Data(train=train, heldout=heldout))


def test_the_hash_of_lists_is_that_of_their_prompts():
    some = prompts(2)
    assert sha256_of(some) == hashlib.sha256(repr(tuple(some)).encode()).hexdigest()


def prompts(*counts):
    return PromptList(
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


def test_the_order_is_that_of_earlier_runs():
    order = PromptOrder(prompts(4), seed=7, prompts_per_step=4, mix={})
    by_hash = sorted(prompts(4), key=lambda prompt: seed_of(7, "order", 1, prompt.id))
    assert [order.prompt(2, group)[0] for group in range(4)] == by_hash


def test_a_mix_gives_each_category_its_share():
    order = PromptOrder(prompts(5, 3, 9), seed=1, prompts_per_step=4, mix={"a": 1, "c": 3})
    for step in range(1, 8):
        assert Counter(order.prompt(step, group)[0].category for group in range(4)) == {"a": 1, "c": 3}
    assert len({order.prompt(step, 0)[0].id for step in range(1, 6)}) == 5


def test_a_mix_of_unknown_categories_is_refused():
    with pytest.raises(UserError, match="does not have: d; it has a, b"):
        PromptOrder(prompts(2, 2), 0, 2, {"a": 1, "d": 1})
