"""Prompts in Parquet: names and types of columns, rows that repeat others, and what else stands in a row."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.messages import Prompt
from pipelines.data import parquet_prompts, prompt_files
from pipelines.data.parquet_prompts import ParquetPrompts
from pipelines.data.prompts import PromptOrder, load_prompt_sets, load_prompts
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Data
from pipelines.training.beginning import sha256_of

ROWS = 300


def write(path: Path, row_group_size: int = 50, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return str(path)


def open_set(path: str, caption: str = "", **mix: int) -> ParquetPrompts:
    prompts, _ = load_prompt_sets(Data(train=path, caption=caption, mix=mix))
    assert isinstance(prompts, ParquetPrompts)
    return prompts


def epoch(prompts: ParquetPrompts, category: str | None = None, number: int = 0) -> list[Prompt]:
    rows = prompts.shuffled(category, 1)
    return [rows.prompt(number, place) for place in range(len(rows))]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 170 rows a block, at most 50 a span."""
    monkeypatch.setattr(parquet_prompts, "BLOCK_BYTES", 2**14)
    monkeypatch.setattr(prompt_files, "BATCH_ROWS", 10)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"prompt": ["a"], "tag": ["t"]}, Prompt("ca978112ca1bbdca", "a", "t", {"prompt": "a", "tag": "t"})),
        ({"Text": ["a"], "Id": [0]}, Prompt("0", "a", "all", {"Text": "a", "Id": "0"})),
        ({"caption": ["a"], "text": ["b"], "id": [7]}, Prompt("7", "a", "all", {"text": "b"})),
        ({"caption": ["a"], "id": pa.array([2**64 - 1], pa.uint64())}, Prompt(str(2**64 - 1), "a")),
        ({"caption": pa.array(["a"], pa.large_string()), "category": [3]}, Prompt("ca978112ca1bbdca", "a", "3")),
        ({"caption": pa.array(["a"], pa.string_view()), "id": [" "]}, Prompt("ca978112ca1bbdca", "a")),
        ({"caption": pa.array(["a"]).dictionary_encode(), "category": pa.array([""]).dictionary_encode()}, Prompt("ca978112ca1bbdca", "a")),
        ({"caption": ["a"], "id": pa.nulls(1), "category": pa.nulls(1)}, Prompt("ca978112ca1bbdca", "a")),
        ({"caption": ["a"], "category": ["x"], "tag": ["t"]}, Prompt("ca978112ca1bbdca", "a", "x", {"tag": "t"})),
        (
            {"caption": ["a"], "id": ["i"], "include": [[{"class": "dog", "count": 2}]], "n": [0.5], "none": pa.nulls(1)},
            Prompt("i", "a", "all", {"include": [{"class": "dog", "count": 2}], "n": 0.5}),
        ),
        ({"caption": ["a"], "id": ["i"], "jpg_0": [b"\xff"], "image": [{"bytes": b"\xff", "path": "p"}]}, Prompt("i", "a")),
    ],
)  # fmt: skip
def test_columns_are_read_to_train_on_as_they_are_held_out(
    tmp_path: Path, columns: dict[str, Any], found: Prompt
) -> None:
    path = write(tmp_path / "p.parquet", **columns)
    (trained,) = epoch(open_set(path))
    (held,) = load_prompts(path, "data.heldout")
    assert trained == found
    assert (held.id, held.caption, held.category, held.extra.keys()) == (
        found.id,
        found.caption,
        found.category,
        found.extra.keys(),
    )


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"prompt": ["a"], "text": ["b"]}, "p.parquet: which field is the caption, prompt or text\\? Say so: data.caption = \"prompt\""),
        ({"caption": pa.nulls(1)}, "the column `caption` is null, but text is expected"),
        ({"caption": ["a"], "id": [True]}, "the column `id` is bool, but text or an integer is expected"),
        ({"prompt": [["a"]]}, "the column `prompt` is list"),
        ({"caption": ["\u200b", " \u2003"]}, "none of its 2 rows has a caption"),
    ],
)  # fmt: skip
def test_a_mistake_in_them_is_named(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_set(write(tmp_path / "p.parquet", **columns))


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"]], names=["caption", "caption"]), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="the column `caption` comes twice"):
        open_set(str(tmp_path / "p.parquet"))


def test_another_column_for_the_caption_is_another_set(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", caption=["a"], long=["a long one"])
    assert epoch(open_set(path, "long"))[0].caption == "a long one"
    assert sha256_of(open_set(path, "long")) != sha256_of(open_set(path))


@pytest.mark.usefixtures("small_blocks")
def test_other_columns_come_with_their_row_whatever_the_block(tmp_path: Path) -> None:
    for file, name in enumerate(("weight", "note")):  # files need not have the same ones
        numbers = range(file * ROWS, (file + 1) * ROWS)
        captions = [f"caption {number}" for number in numbers]
        write(
            tmp_path / f"{file}.parquet",
            caption=captions,
            id=list(numbers),
            **{name: [f"n{number}" for number in numbers]},
        )
    prompts = open_set(str(tmp_path))
    for number in (0, 1):
        found = epoch(prompts, number=number)
        assert len(found) == 2 * ROWS
        assert all(
            prompt.extra == {"note" if int(prompt.id) >= ROWS else "weight": f"n{prompt.id}"} for prompt in found
        )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("with_ids", [True, False])
def test_rows_that_repeat_an_earlier_one_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], with_ids: bool
) -> None:
    numbers = [*range(ROWS), 3, 250, 3]

    def columns(numbers: list[int]) -> dict[str, Any]:
        ids = {"id": numbers} if with_ids else {}
        return {"caption": [f"caption {n}" for n in numbers], "category": ["ab"[n % 2] for n in numbers], **ids}

    plain = write(tmp_path / "plain" / "0.parquet", **columns(numbers[:ROWS]))
    write(tmp_path / "set" / "0.parquet", **columns(numbers[:-1]))
    write(tmp_path / "set" / "1.parquet", **columns(numbers[-1:]))
    found = open_set(str(tmp_path / "set"))
    assert sorted(prompt.caption for prompt in epoch(found)) == sorted(f"caption {n}" for n in range(ROWS))
    told = capsys.readouterr().err
    assert (
        f"3 of {ROWS + 3} prompts of data.train repeat an earlier one, with its id or, without ids, its caption" in told
    )
    assert f"are left out: {tmp_path}/set/0.parquet, row 301; {tmp_path}/set/0.parquet, row 302; " in told
    mixed = open_set(str(tmp_path / "set"), a=1, b=1)
    assert [len(epoch(mixed, category)) for category in "ab"] == [ROWS // 2, ROWS // 2]
    capsys.readouterr()
    assert len(epoch(open_set(plain))) == ROWS
    assert "repeat" not in capsys.readouterr().err


def test_the_order_of_a_set_depends_on_neither_its_other_columns_nor_the_search_for_repeats(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", caption=[f"c{n}" for n in range(8)], id=list(range(8)), note=["x"] * 8)
    assert [prompt.id for prompt in epoch(open_set(path))] == ORDER


ORDER = list("45230167")


def test_one_id_with_two_captions_is_refused_with_both_places(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "0.parquet", caption=["a", "b"], id=["x", "y"])
    write(tmp_path / "set" / "1.parquet", caption=["c", "d"], id=["z", "x"])
    told = rf"1.parquet, row 2: the id 'x' was given before \({path}, row 1\) with another caption \('a', now 'd'\)"
    with pytest.raises(UserError, match=told):
        open_set(str(tmp_path / "set"))


def test_one_caption_under_two_ids_is_two_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", caption=["a", "a", "a"], id=["1", "2", None])
    assert sorted(prompt.id for prompt in epoch(open_set(path))) == ["1", "2", "ca978112ca1bbdca"]


def test_ids_and_captions_are_not_taken_for_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", caption=["a", "b"], id=["b", None])
    assert len(epoch(open_set(path))) == 2


def test_no_step_has_the_same_noise_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", caption=["a", "b", "a", "c"])
    order = PromptOrder(open_set(path), 1, 3, {})
    for step in range(1, 6):
        groups = [order.prompt(step, group) for group in range(3)]
        assert len({(prompt.id, epoch) for prompt, epoch in groups}) == 3


def test_nothing_but_a_users_mistake_comes_of_damaged_files(tmp_path: Path) -> None:
    path = Path(
        write(tmp_path / "p.parquet", caption=[f"caption {n}" for n in range(40)], id=list(range(40)), note=["x"] * 40)
    )
    content, random_ = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        data = bytearray(content)
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(len(data) * 3 // 4 if random_.random() < 0.5 else len(data))
            data[at : at + random_.randrange(5)] = random_.randbytes(random_.randrange(5))
        path.write_bytes(data)
        for read in (lambda: open_set(str(path)).sample(), lambda: load_prompts(str(path), "data.heldout")):
            try:
                read()
            except UserError:
                refused += 1
            except OSError as error:  # a page that is read when the run needs it
                refused += "cannot be read" in str(error)
    assert refused > 20
