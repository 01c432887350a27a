"""The work of `evaluate` on the driver, in virtual time: any number of workers, judges side by side, stops, kills, lost workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import DrawReport, DrawRequest, Prompt, Scores
from cluster.control.status_table import progress
from cluster.tasks import PoolSpec
from pipelines.engine.driver import Driver
from pipelines.evaluating.ending import result_of
from pipelines.evaluating.models import Model
from pipelines.evaluating.sheets import Sheets
from pipelines.evaluating.work import EvaluateWork
from pipelines.planning.stages import Stage
from pipelines.recipe.load import parse_recipe
from pipelines.recipe.programs.evaluate import CHECKER, EvaluateRecipe
from tests.support.virtual_map import files, virtual_driver

PROMPTS = [Prompt(f"p{number}", f"picture {number}", "even" if number % 2 == 0 else "odd") for number in range(10)]
MODELS = [
    Model("plain", "base", "a/base"),
    Model("tuned", "LoRA", "a/base", ("x",), "sha"),
    Model("other", "base", "b/base"),
]
SHEETS = len(MODELS) * 2 * 10  # of two images each
DRAWN: Counter[tuple[str, int]] = Counter()
BATCHES: set[tuple[int, ...]] = set()
JUDGED: Counter[tuple[str, bytes]] = Counter()


class Models(Stage):
    """Draws a picture of each seed: its bytes say by which adapter, prompt, scale and seed."""

    def draw(self, request: DrawRequest) -> tuple:
        self.work(request.parts[0].group)
        BATCHES.add(tuple(part.group for part in request.parts))
        made: list[Any] = []
        for part in request.parts:
            DRAWN[request.adapter_sha256, part.group] += 1
            what = [repr((part.caption, request.guidance_scale, seed, part.group)) for seed in part.noise_seeds]
            images = np.stack([np.frombuffer(each.encode().ljust(192), np.uint8).reshape(8, 8, 3) for each in what])
            made += [images, None]
        reports = [DrawReport(part.caption, False, 0, request.adapter_sha256, 384, 1.0) for part in request.parts]
        return tuple(reports), *made


class Judge(Stage):
    """Judges by the bytes alone."""

    def _judged(self, images_KHWC: np.ndarray) -> list[float]:
        self.work(images_KHWC.tobytes())
        for image in images_KHWC:
            JUDGED[type(self).__name__, image.tobytes()] += 1
        return [float(image.mean()) / 255 for image in images_KHWC]

    def score(self, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        scores = self._judged(images_KHWC)
        if prompt.id == "p3":
            scores[0] = float("nan")
        return Scores(tuple(scores))


class Check(Judge):
    """A checker."""

    def check(self, prompt: Prompt, images_KHWC: np.ndarray) -> dict[str, list[float]]:
        return {"accuracy": self._judged(images_KHWC)}


Made = Callable[..., Driver[EvaluateWork]]


@pytest.fixture
def driver(tmp_path: Path) -> Made:
    """A driver of such a run in a folder with so many workers, which is told to stop, or killed, after so many turns."""
    for counts in (DRAWN, BATCHES, JUDGED):
        counts.clear()
    tables = {
        "models": {model.name: model.base for model in MODELS},
        "data": {"heldout": "none"},
        "reward": {"model": "none"},
        "heldout": {
            "images_per_prompt": 2, "chunk": 2, "groups_per_task": 4, "guidance_scales": (1.0, 3.0), "checker": "a:b",
            "shard_images": 12, "in_flight": 10,
        },
    }  # fmt: skip
    recipe = parse_recipe(tables, "test", EvaluateRecipe)

    def driver(name: str, workers: int, stop: int | None = None, kill: int | None = None) -> Driver[EvaluateWork]:
        pace = {"seconds": 1.0, "jitter": 0.5}
        specs = [PoolSpec(f"rollout.{name}", Models, pace, workers) for name in ("plain", "other")]
        specs += [PoolSpec("reward", Judge, pace, workers), PoolSpec(CHECKER, Check, pace, workers)]
        sheets = Sheets(recipe, MODELS, PROMPTS)
        return virtual_driver(
            tmp_path / name, recipe, specs, lambda folder, executor: EvaluateWork(sheets, folder, executor), stop, kill
        )

    return driver


def digest(driver: Driver[EvaluateWork]) -> str:
    return result_of(driver.work.shards.records(), driver.work.rewards).digest


def test_one_worker_and_four_write_the_same_bytes(driver: Made) -> None:
    one, four = driver("one", 1), driver("four", 4)
    assert one.run(None) == four.run(None) == "done"
    assert files(one) == files(four)
    assert digest(one) == digest(four)
    assert set(DRAWN.values()) == {2}


def test_bases_have_workers_of_their_own_which_are_busy_at_once(driver: Made) -> None:
    run, together = driver("run", 1), 0
    tick = run.control.tick

    def watch(progress: Any) -> None:
        nonlocal together
        together += all(progress.busy[f"rollout.{name}"] for name in ("plain", "other"))
        tick(progress)

    run.control.tick = watch  # type: ignore[method-assign]
    run.run(None)
    assert together


def test_a_score_that_is_no_number_takes_nothing_from_other_judges(driver: Made) -> None:
    run = driver("run", 2)
    run.run(None)
    assert str(progress(run.work.status(run.era.loop.progress()))).startswith("row 120/120  12 failed")
    failed = [record for record in run.work.shards.records() if record["reason"]]
    assert {record["prompt_id"] for record in failed} == {"p3"}
    assert len(failed) == len(MODELS) * 2 * 2
    assert {(record["promptecho"], record["reason"]) for record in failed} == {(None, "promptecho: a score is nan")}
    assert all(dict(record["checks"])["accuracy"] > 0 for record in failed)


def judged_again(written: set[bytes], before: Counter[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [key for key in JUDGED if key[1] in written and JUDGED[key] != before[key]]


def pictures(run: Driver[EvaluateWork]) -> set[bytes]:
    """The images of what is written, as `Models` draws them."""
    sheets, found = run.work.sheets, set()
    for row in run.work.shards.written:
        number, place = divmod(row, sheets.images)
        request = sheets.request([number])
        (part,) = request.parts
        found.add(repr((part.caption, request.guidance_scale, part.noise_seeds[place], number)).encode().ljust(192))
    return found


@pytest.mark.parametrize("turns", [0, 1, 10, 30, 55])
def test_a_run_that_was_stopped_judges_no_image_again_that_is_written(driver: Made, turns: int) -> None:
    whole, first = driver("whole", 3), driver("halved", 3, stop=turns)
    whole.run(None)
    JUDGED.clear()
    assert first.run(None) == "stopped"
    before, again = Counter(JUDGED), driver("halved", 1)
    written = pictures(again)
    assert len(written) == len(again.work.shards.written)
    assert again.run(None) == "done"
    assert judged_again(written, before) == []
    assert files(again) == files(whole)


@pytest.mark.parametrize("turns", [1, 10, 30, 55])
def test_a_run_that_was_killed_goes_on_from_its_whole_files(driver: Made, turns: int) -> None:
    whole, first = driver("whole", 3), driver("killed", 3, kill=turns)
    whole.run(None)
    JUDGED.clear()
    with pytest.raises(KeyboardInterrupt):
        first.run(None)
    before, again = Counter(JUDGED), driver("killed", 2)
    written = pictures(again)
    assert again.run(None) == "done"
    assert judged_again(written, before) == []
    assert files(again) == files(whole)
    assert digest(again) == digest(whole)


def test_what_is_drawn_again_is_drawn_in_the_batch_that_it_was_drawn_in_before(driver: Made) -> None:
    driver("whole", 2).run(None)
    batches = set(BATCHES)
    driver("halved", 2, stop=40).run(None)
    again = driver("halved", 2)
    assert 0 < len(again.work.missing) < SHEETS
    again.run(None)
    assert batches == BATCHES
    assert all(len(batch) in (2, 4) for batch in BATCHES)
