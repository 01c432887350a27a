"""Prompt sets in Parquet: mistakes are found, memory does not grow with the set, and the order is a pure function of seed and files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.messages import Prompt, Scores
from actors.reward.actor import RewardActor
from cluster.storage import files
from pipelines.data import parquet_prompts, prompt_files
from pipelines.data.parquet_prompts import ParquetPrompts
from pipelines.data.prompts import PromptOrder, load_prompt_sets, load_prompts
from pipelines.preflight.checks import sample_prompts
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.tables import Data
from pipelines.train import main
from pipelines.training import pools
from pipelines.training.beginning import sha256_of
from tests.support.flaky_s3 import FlakyS3

ROWS, FILES, PER_STEP = 400, 3, 8
MANY = 10**6


def write(path: Path, row_group_size: int = 50, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return str(path)


def make_set(folder: Path, row_group_size: int = 50) -> str:
    for file in range(FILES):
        numbers = range(file * ROWS, (file + 1) * ROWS)
        captions = [f"caption {number} " + "word " * (number % 7) for number in numbers]
        categories = ["abc"[number % 3] for number in numbers]
        write(folder / f"part-{file}.parquet", row_group_size, caption=captions, id=list(numbers), category=categories)
    return str(folder)


def open_set(path: str, **mix: int) -> ParquetPrompts:
    prompts, _ = load_prompt_sets(Data(train=path, mix=mix))
    assert isinstance(prompts, ParquetPrompts)
    return prompts


def order_of(path: str, seed: int = 1, **mix: int) -> PromptOrder:
    return PromptOrder(open_set(path, **mix), seed, PER_STEP, mix)


def ids(order: PromptOrder, steps: range, groups: int = PER_STEP) -> list[str]:
    return [order.prompt(step, group)[0].id for step in steps for group in range(groups)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_set(tmp_path_factory.mktemp("sets") / "train")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 170 rows a block, at most 50 a span."""
    monkeypatch.setattr(parquet_prompts, "BLOCK_BYTES", 2**14)
    monkeypatch.setattr(prompt_files, "BATCH_ROWS", 10)


@pytest.mark.usefixtures("small_blocks")
def test_every_epoch_has_each_row_once_in_another_order(folder: str) -> None:
    order = order_of(folder)
    steps = FILES * ROWS // PER_STEP
    epochs = [ids(order, range(1 + epoch * steps, 1 + (epoch + 1) * steps)) for epoch in range(3)]
    assert all(sorted(epoch, key=int) == [str(number) for number in range(FILES * ROWS)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [order.prompt(1 + epoch * steps, 0)[1] for epoch in range(3)] == [0, 1, 2]


@pytest.mark.usefixtures("small_blocks")
def test_a_block_mixes_rows_of_several_places(folder: str) -> None:
    first = [int(number) for number in ids(order_of(folder), range(1, 11))]
    assert len({number // 50 for number in first}) >= 3
    assert sum(abs(a - b) > 5 for a, b in pairwise(first)) > 60


@pytest.mark.usefixtures("small_blocks")
def test_the_order_depends_on_the_seed_and_the_files_alone(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = ids(order_of(folder), range(1, 200))
    assert ids(order_of(folder), range(180, 200)) == walked[179 * PER_STEP :]
    backwards = order_of(folder)
    monkeypatch.setattr(prompt_files, "BATCH_ROWS", 7)
    assert [ids(backwards, range(step, step + 1)) for step in (199, 90, 1)] == [
        walked[(step - 1) * PER_STEP : step * PER_STEP] for step in (199, 90, 1)
    ]
    assert ids(order_of(folder, seed=2), range(1, 200)) != walked


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("row_group_size", "fewest", "most"), [(1, 2, 5), (25, 25, 25), (ROWS, 40, 60)])
def test_spans_are_row_groups_or_parts_of_large_ones(
    tmp_path: Path, row_group_size: int, fewest: int, most: int
) -> None:
    prompts = open_set(make_set(tmp_path / "set", row_group_size))
    for file in prompts.files:
        spans = [span for span in prompts.spans if span.file is file]
        assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
        assert spans[-1].stop == file.num_rows == ROWS
        assert all(fewest <= span.stop - span.start <= most for span in spans[:-1])
    order = PromptOrder(prompts, 1, PER_STEP, {})
    assert len(set(ids(order, range(1, FILES * ROWS // PER_STEP + 1)))) == FILES * ROWS


@pytest.mark.usefixtures("small_blocks")
def test_a_mix_gives_each_category_its_share_and_epochs_of_its_own(folder: str) -> None:
    order = order_of(folder, a=1, c=3)
    drawn = [[order.prompt(step, group) for group in range(4)] for step in range(1, ROWS + 1)]
    assert all(Counter(prompt.category for prompt, _ in step) == {"a": 1, "c": 3} for step in drawn)
    assert len({step[0][0].id for step in drawn}) == ROWS
    rare = [(prompt.id, epoch) for step in drawn for prompt, epoch in step[1:]]
    assert len(set(rare)) == len(rare) == 3 * ROWS
    assert {epoch for _, epoch in rare} == {0, 1, 2}


def test_a_mix_of_unknown_categories_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match="does not have: d; it has a, b, c"):
        order_of(folder, a=1, d=1)


def test_ids_and_categories_that_are_not_given(tmp_path: Path) -> None:
    nothing = pa.nulls(2, pa.string())
    path = write(tmp_path / "p.parquet", caption=["a cat", "a dog"], category=pa.array(["pets", None]), id=nothing)
    captions = pa.array(["a cow"]).dictionary_encode()
    write(tmp_path / "q.parquet", caption=captions, picture=pa.array([b"\xff" * 100]))
    order = order_of(str(tmp_path))
    found = {prompt.caption: prompt for prompt in (order.prompt(1, group)[0] for group in range(3))}
    listed = load_prompts(path, "data.train")
    assert [found[prompt.caption] for prompt in listed] == list(listed)
    assert found["a cow"] == Prompt(found["a cow"].id, "a cow")
    assert [prompt.category for prompt in listed] == ["pets", "all"]
    assert all(len(prompt.id) == 16 for prompt in found.values())


def test_rows_without_a_caption_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = ["a", None, " \n", "b", "", "c", "\u2003"]
    path = write(tmp_path / "p.parquet", caption=captions, category=["x", "x", "x", "x", "x", "x", "empty"])
    order = order_of(path, x=3)
    assert {order.prompt(1, group)[0].caption for group in range(3)} == {"a", "b", "c"}
    told = capsys.readouterr().err
    assert (
        f"4 of 7 rows of data.train have no caption and are left out: {path}, row 2; {path}, row 3; {path}, row 5"
        in told
    )
    with pytest.raises(UserError, match="does not have: empty; it has x"):
        order_of(path, empty=1)


def test_the_doctor_gets_the_first_prompts(tiny_world: Path, folder: str) -> None:
    prompts = sample_prompts(load_recipe(tiny_world, [f"data.train={folder}"]))
    assert 0 < len(prompts) <= parquet_prompts.SAMPLE_ROWS
    assert prompts[1] == Prompt("1", "caption 1 word ", "b")


def test_held_out_captions_may_not_be_trained_on(tmp_path: Path, folder: str) -> None:
    heldout = write(
        tmp_path / "h.parquet", caption=["new", "caption 9 word word ", "caption 7 "], colour=["r", None, "b"]
    )
    with pytest.raises(
        UserError, match=r"2 captions of data.heldout are also in data.train, the first is 'caption 9 word"
    ):
        load_prompt_sets(Data(train=folder, heldout=heldout))


def test_a_held_out_set_is_read_whole_with_its_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", caption=["a", "b", "a"], id=["1", "2", "1"], count=[1, None, 1])
    assert load_prompts(path, "data.heldout") == (
        Prompt("1", "a", "all", {"count": 1}),
        Prompt("2", "b", "all", {}),
    )
    with pytest.raises(UserError, match=r"h.parquet, row 2: the caption is empty; remove the row"):
        load_prompts(write(tmp_path / "h.parquet", caption=["a", " "]), "data.heldout")


def test_the_hash_is_of_the_files_and_not_of_their_place(tmp_path: Path, folder: str) -> None:
    def sha256(path: str) -> str:
        return sha256_of(load_prompt_sets(Data(train=path))[0])

    assert sha256(make_set(tmp_path / "again")) == sha256(folder)
    assert sha256(make_set(tmp_path / "other", row_group_size=60)) != sha256(folder)
    (tmp_path / "again" / "part-2.parquet").rename(tmp_path / "again" / "part-3.parquet")
    assert sha256(str(tmp_path / "again")) != sha256(folder)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"name": ["a"], "url": ["b"]}, "no field for the caption: it has name, url."),
        ({"caption": [1]}, "the column `caption` is int64, but text is expected"),
        ({"caption": [b"a"]}, "the column `caption` is binary, but text is expected"),
        ({"caption": ["a"], "id": [0.5]}, "the column `id` is double, but text or an integer is expected"),
        ({"caption": ["a"], "category": [["a"]]}, "the column `category` is list"),
        ({"caption": pa.array([], pa.string())}, "data.train: it holds no prompts"),
        ({"caption": [None, " "]}, "data.train: none of its 2 rows has a caption"),
        ({"caption": pa.array([b"\xff"]).view(pa.string())}, "p.parquet cannot be read: .*UTF8"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_columns_is_named(tmp_path: Path, columns: dict[str, Any], told: str) -> None:
    columns = {
        name: pa.array(values, pa.string()) if values == [None, " "] else values for name, values in columns.items()
    }
    path = write(tmp_path / "p.parquet", **columns)
    with pytest.raises(UserError, match=told):
        open_set(path)


def damaged(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "footer", "page"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    path = Path(make_set(tmp_path / "set")) / "part-1.parquet"
    size = path.stat().st_size
    if damage == "text":
        path.write_text("caption\na cat\n")
    elif damage in ("cut", "empty"):
        os.truncate(path, size // 2 if damage == "cut" else 0)
    else:
        damaged(path, size - 300 if damage == "footer" else 4)
    with pytest.raises(UserError, match=r"data.train: .*part-1.parquet cannot be read: "):
        open_set(str(path.parent))


def test_a_folder_without_parquet_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"caption": "a"}\n')
    with pytest.raises(UserError, match=r"the folder holds no \*.parquet files"):
        open_set(str(tmp_path))


def test_a_url_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.train = 'cloud://a/b': .*cloud"):
        open_set("cloud://a/b")


def resident_peak(path: str) -> int:
    """The peak, in bytes, of a process that opens a set and walks some steps."""
    code = (
        "import sys\nfrom pipelines.data.prompts import PromptOrder, load_prompt_sets\nfrom pipelines.recipe.tables import Data\n"
        "order = PromptOrder(load_prompt_sets(Data(train=sys.argv[1]))[0], 0, 64, {})\n"
        "for step in range(1, 1000, 8):\n    order.prompt(step, 0)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=True)
    return 1024 * int(run.stdout)


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """A set of 0.5 GB: the same dense captions, in one row group, under other ids in each of twelve files, and with another column."""
    letters = np.random.default_rng(0).integers(97, 123, 20_000 * 2000, np.uint8).tobytes().decode()
    captions = [letters[start : start + 2000] for start in range(0, len(letters), 2000)]
    for number in range(12):
        ids = np.arange(number * len(captions), (number + 1) * len(captions))
        write(tmp_path / f"{number}.parquet", 20_000, caption=captions, id=ids, note=ids)
    peak = resident_peak(str(tmp_path))
    for file in tmp_path.iterdir():
        file.unlink()
    assert peak < 450e6


@pytest.fixture
def url(s3: str, folder: str, request: pytest.FixtureRequest) -> str:
    place = f"{s3}/{request.node.name}"
    fsspec.filesystem("s3").put(f"{folder}/", f"{place}/", recursive=True)
    return place


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_prompts, "RETRY_AFTER_S", (0.01, 0.01, 0.01, 0.01))


@pytest.mark.usefixtures("small_blocks")
def test_a_set_at_a_url_is_that_of_the_disk(url: str, folder: str) -> None:
    assert ids(order_of(url), range(1, 100)) == ids(order_of(folder), range(1, 100))
    assert repr(open_set(url)) == repr(open_set(folder))


@pytest.mark.usefixtures("small_blocks")
def test_a_late_step_costs_one_block_and_no_pass_over_the_set(url: str, flaky_s3: FlakyS3) -> None:
    order = order_of(url)
    costs = []
    for step in (1, 2, MANY, MANY):
        flaky_s3.calm()
        order.prompt(step, 0)
        costs.append(len(flaky_s3.requests))
    first, second, late, again = costs
    assert second == again == 0
    assert 0 < late < 2 * first


@pytest.mark.usefixtures("small_blocks", "at_once")
def test_a_block_that_cannot_be_read_for_a_while_is_read_again(url: str, flaky_s3: FlakyS3) -> None:
    walked = ids(order_of(url), range(1, 60))
    order = order_of(url)
    flaky_s3.fail(4, 403)
    assert ids(order, range(1, 60)) == walked


@pytest.mark.usefixtures("small_blocks", "at_once")
def test_a_block_that_cannot_be_read_for_good_ends_the_run_with_its_name(url: str, flaky_s3: FlakyS3) -> None:
    order = order_of(url)
    flaky_s3.fail(status=403)
    with pytest.raises(OSError, match=r"s3://.*/part-\d.parquet cannot be read: access is denied"):
        order.prompt(1, 0)


@pytest.mark.usefixtures("small_blocks", "at_once")
def test_a_file_that_changes_during_the_run_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    path = make_set(tmp_path / "set")
    order = order_of(path)
    make_set(tmp_path / "set", row_group_size=40)
    with pytest.raises(OSError, match=r"part-\d.parquet cannot be read: it has changed since the run began"):
        order.prompt(1, 0)


MOODS = {
    "denied": ("access is denied", lambda server: server.fail(status=403)),
    "hangs": ("Read timeout .* tried again without success", lambda server: server.hang(30.0)),
}


@pytest.mark.parametrize("mood", MOODS)
def test_a_store_that_does_not_answer_is_told_soon(
    url: str, flaky_s3: FlakyS3, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BRIEF", {**files.BRIEF, "read_timeout": 0.5})
    told, begin = MOODS[mood]
    begin(flaky_s3)
    with pytest.raises(UserError, match=f"data.train = '{re.escape(url)}': .*{told}"):
        open_set(url)


@pytest.mark.parametrize(
    ("place", "told"), [("s3://runs/nothing.parquet", "there is no such file"), ("s3://other/a", "no bucket other")]
)
@pytest.mark.usefixtures("s3")
def test_what_is_not_in_the_store_is_told(place: str, told: str) -> None:
    with pytest.raises(UserError, match=f"data.train = '{place}': .*{told}"):
        open_set(place)


def test_lines_at_a_url_are_those_of_the_disk(s3: str, tiny_world: Path) -> None:
    path = tiny_world.parent / "train.jsonl"
    fsspec.filesystem("s3").put(str(path), f"{s3}/lines/train.jsonl")
    assert load_prompts(f"{s3}/lines/train.jsonl", "data.train") == load_prompts(str(path), "data.train")


class Listening(RewardActor):
    """Keeps what it was told of the prompts that it scored."""

    heard: ClassVar[list[Prompt]] = []

    def score(self, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        self.heard.append(prompt)
        return super().score(prompt, images_KHWC)


@pytest.fixture(scope="module")
def runs(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The setting of a run that trains on Parquet files, and its folder."""
    lines = (tiny_world.parent / "train.jsonl").read_text().splitlines()
    folder = tmp_path_factory.mktemp("parquet")
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), folder / "train.parquet")
    setting = f"data.train={folder / 'train.parquet'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "RewardActor", Listening)
        train(tiny_world, folder / "run", setting)
    return setting, folder / "run"


@pytest.mark.usefixtures("runs")
def test_all_columns_of_a_row_reach_the_reward_in_training_as_on_held_out_prompts(tiny_world: Path) -> None:
    lines = {
        fields["id"]: fields
        for name in ("train", "heldout")
        for fields in map(json.loads, (tiny_world.parent / f"{name}.jsonl").read_text().splitlines())
    }
    assert {prompt.id.partition("-")[0] for prompt in Listening.heard} == {"train", "heldout"}
    for prompt in Listening.heard:
        told = {"id": prompt.id, "caption": prompt.caption, "category": prompt.category, **prompt.extra}
        wanted = lines[prompt.id]
        assert told == (wanted if prompt.id.startswith("heldout") else without_null(wanted))


def without_null(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def train(recipe: Path, out: Path, setting: str, *options: str) -> str:
    arguments = [str(recipe), "--out", str(out), "--executor", "local", "--set", setting, "--set", "heldout.every=100"]
    assert main([*arguments, *options]) == 0
    return json.loads((out / "summary.json").read_text())["digest"]


def test_a_run_resumes_to_the_same_digest(runs: tuple[str, Path], tiny_world: Path, tmp_path: Path) -> None:
    setting, out = runs
    digest = json.loads((out / "summary.json").read_text())["digest"]
    assert train(tiny_world, tmp_path / "resumed", setting, "--resume", str(out / "checkpoints/step-000002")) == digest
