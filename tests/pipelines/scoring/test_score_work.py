"""The work of `score` on the driver, in virtual time: any number of workers, judges side by side, stops and lost workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import Prompt, Verdict
from cluster.tasks import Outcome, PoolSpec
from pipelines.data.images import ImageRow
from pipelines.engine.driver import Driver
from pipelines.engine.messages import Ask, Unit
from pipelines.planning.stages import Stage
from pipelines.recipe.load import parse_recipe
from pipelines.recipe.programs.mapping import READER
from pipelines.recipe.programs.score import ScoreRecipe
from pipelines.scoring.ending import result_of
from pipelines.scoring.work import ScoreWork
from tests.support.virtual_map import files, virtual_driver

ROWS = [
    ImageRow(f"{number}.png", f"picture {number}", problem="no file" if number == 17 else "") for number in range(50)
]
UNKNOWN = "picture 30"  # what one of the judges cannot score
JUDGED: Counter[tuple[str, str]] = Counter()


@dataclass
class Reader(Stage):
    """Reads in the time that it is told."""

    def read(self, rows: tuple[ImageRow, ...]) -> tuple:
        self.work(rows[0].file_name)
        said = tuple((row.problem, 0 if row.problem else 12) for row in rows)
        return said, tuple(None if row.problem else np.zeros((2, 2, 3), np.uint8) for row in rows)


@dataclass
class Judge(Stage):
    """Judges by the caption alone."""

    name: str = field(default="")

    def judge_each(self, asked: Sequence[tuple[Prompt, int]], tokens: bool, *read: tuple) -> tuple:
        self.work(asked[0][0].caption)
        images = [image_HWC for batch in read for image_HWC in batch]
        return tuple(self.judge(prompt, images[number][None], tokens) for prompt, number in asked)

    def judge(self, prompt: Prompt, image_KHWC: np.ndarray, tokens: bool) -> Verdict:
        assert image_KHWC.shape == (1, 2, 2, 3)
        JUDGED[self.name, prompt.caption] += 1
        if self.name == "vowels" and prompt.caption == UNKNOWN:
            return Verdict(None, "it knows no such picture")
        return Verdict(len(prompt.caption) / 3, "", ("a",), (-0.5,)) if tokens else Verdict(len(prompt.caption) / 3)


Made = Callable[..., Driver[ScoreWork]]


@pytest.fixture
def driver(tmp_path: Path) -> Made:
    """A driver of such a run in a folder with so many workers, which is told to stop, or killed, after so many turns."""
    JUDGED.clear()
    tables = {
        "data": {"images": "none"},
        "reward": [{"name": name, "model": "none"} for name in ("length", "vowels")],
        "scores": {"shard_rows": 8, "in_flight": 64},
    }
    recipe = parse_recipe(tables, "test", ScoreRecipe)

    def driver(name: str, workers: int, stop: int | None = None, kill: int | None = None) -> Driver[ScoreWork]:
        specs = [PoolSpec(READER, Reader, {"seconds": 0.5, "jitter": 0.5}, workers)]
        for judge, seconds in (("length", 2.0), ("vowels", 3.0)):
            specs.append(
                PoolSpec(f"reward.{judge}", Judge, {"seconds": seconds, "jitter": 0.5, "name": judge}, workers)
            )
        return virtual_driver(
            tmp_path / name, recipe, specs, lambda folder, _: ScoreWork(recipe, ROWS, folder), stop, kill
        )

    return driver


def digest(driver: Driver[ScoreWork]) -> str:
    return result_of(driver.work.shards.records(), driver.work.explained).digest


def test_one_worker_and_four_write_the_same_bytes(driver: Made) -> None:
    one, four = driver("one", 1), driver("four", 4)
    assert one.run(None) == four.run(None) == "done"
    assert files(one) == files(four)
    assert len(files(one)) == 7
    assert digest(one) == digest(four)


def test_a_judge_that_cannot_score_a_row_takes_nothing_from_the_others(driver: Made) -> None:
    run = driver("run", 2)
    run.run(None)
    records = list(run.work.shards.records())
    assert [record["row"] for record in records if record["reason"]] == [17, 30]
    assert (records[30]["vowels"], records[30]["reason"]) == (None, "vowels: it knows no such picture")
    assert records[30]["length"] == len(UNKNOWN) / 3
    assert (records[17]["length"], records[17]["vowels"]) == (None, None)
    assert records[17]["reason"] == "no file"


@pytest.mark.parametrize("turns", [0, 1, 5, 15, 25])
def test_a_run_that_was_stopped_judges_no_row_again_that_is_written(driver: Made, turns: int) -> None:
    whole, first = driver("whole", 3), driver("halved", 3, stop=turns)
    whole.run(None)
    JUDGED.clear()
    assert first.run(None) == "stopped"
    written = [record["caption"] for record in first.work.shards.records() if record["reason"] is None]
    before = Counter(JUDGED)
    again = driver("halved", 1)
    assert len(again.work.missing) == len(ROWS) - len(written)
    assert again.run(None) == "done"
    assert [key for key in JUDGED if key[1] in written and JUDGED[key] != before[key]] == []
    assert files(again) == files(whole)


@pytest.mark.parametrize("turns", [1, 10, 20, 28])
def test_a_run_that_was_killed_goes_on_from_its_whole_files(driver: Made, turns: int) -> None:
    whole, first = driver("whole", 3), driver("killed", 3, kill=turns)
    whole.run(None)
    JUDGED.clear()
    with pytest.raises(KeyboardInterrupt):
        first.run(None)
    before = Counter(JUDGED)
    again = driver("killed", 2)
    written = [ROWS[row].caption for row in again.work.shards.written]
    assert again.run(None) == "done"
    assert [key for key in JUDGED if key[1] in written and JUDGED[key] != before[key]] == []
    assert files(again) == files(whole)
    assert digest(again) == digest(whole)


def test_an_image_that_was_read_again_is_judged_beside_those_of_its_batch_that_were_not(driver: Made) -> None:
    work = driver("run", 1).work
    units = tuple(Unit("rows", 0, group, 0) for group in range(2))
    for read, wanted in (("first", units), ("again", units[1:])):
        work.took(Ask(READER, units, wanted, 0), Outcome(None, "", 0.0, (("", 12), ("", 12)), (read,)))
    call = work.call(Ask("reward.length", units, units, 0))
    asked, _, *read = call.args
    assert [(prompt.caption, number) for prompt, number in asked] == [("picture 0", 0), ("picture 1", 3)]
    assert read == ["first", "again"]


def test_no_more_images_are_held_than_may_be_in_flight(driver: Made) -> None:
    run, most = driver("run", 4), 0
    add = run.work.shards.add

    def watch(record: dict[str, Any]) -> None:
        nonlocal most
        most = max(most, len(run.work.images))
        add(record)

    run.work.shards.add = watch  # type: ignore[method-assign]
    run.run(None)
    assert 8 <= most <= 64
    assert run.work.images == {}


def test_who_stops_it_hears_that_what_is_done_is_written_down_and_of_no_update(
    driver: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, notes = driver("run", 1), list[str]()
    monkeypatch.setattr(run.control.watchers, "note", notes.append)
    run.control.stop()
    assert notes == ["stopping: writing down what is done; Ctrl-C again ends at once"]
