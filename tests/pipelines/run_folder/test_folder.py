"""The run folder: what is written can be read, also after the writer was killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.recipe.errors import UserError
from pipelines.run_folder.events import PolicyLost, PolicyRestarted
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.grids import read_grid
from pipelines.run_folder.records import HeldoutRecord, StepRecord

RECIPE = '[run]\nname = "test"\n'


def images(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_records_come_back_in_order(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    for step in (1, 2):
        folder.metric(StepRecord(step=step, reward_mean=0.5 * step, loss=0.25))
    folder.heldout(HeldoutRecord(tag="before", step=0, accuracy=None, by_category={}))
    folder.event(PolicyLost(doing="update", step=2, cause="raised", message="a NaN"))
    folder.tokens([{"which": "worst", "tokens": ["rød"]}])
    folder.summary({"digest": "abc"})
    again = RunFolder.open(tmp_path / "run")
    assert [(record.reward_mean, record.figure("loss")) for record in again.read_metrics()] == [
        (0.5, 0.25),
        (1.0, 0.25),
    ]
    assert again.read_heldout() == [HeldoutRecord(tag="before", step=0, accuracy=None, by_category={})]
    assert again.read_tokens() == [{"which": "worst", "tokens": ["rød"]}]
    assert again.read_summary() == {"digest": "abc"}
    assert again.read_recipe() == RECIPE
    (event,) = again.read_events()
    assert event.event == PolicyLost(doing="update", step=2, cause="raised", message="a NaN")
    assert event.time is not None
    assert event.time > 1.6e9


def test_an_empty_folder_reads_as_a_run_that_has_not_begun(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    assert (folder.read_metrics(), folder.read_events(), folder.read_tokens(), folder.read_summary()) == (
        [],
        [],
        [],
        {},
    )
    assert folder.read_state()["status"] == "running"


def test_numbers_that_json_lacks_become_null_and_numpy_becomes_plain(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    mixed = [np.float32(np.inf), np.int64(3), np.array([0.5, np.nan]), np.bool_(True)]
    folder.metric(StepRecord(step=1, reward_mean=float("inf"), loss=float("nan"), mixed=mixed))
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    plain = {"step": 1, "reward_mean": None, "loss": None, "mixed": [None, 3, [0.5, None], True]}
    assert json.loads(line, parse_constant=pytest.fail) == plain


def test_a_folder_that_holds_a_run_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", RECIPE).state("stopped")
    with pytest.raises(UserError, match=r"already holds a run \(status: stopped\).*--resume.*--out"):
        RunFolder.create(tmp_path / "run", RECIPE)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "run", RECIPE)


def test_opening_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.open(tmp_path)


def test_going_on_drops_what_will_be_made_again(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.metric(StepRecord(step=1))
    folder.heldout(HeldoutRecord(tag="during", step=1))
    records = folder.records()
    folder.metric(StepRecord(step=2))
    folder.heldout(HeldoutRecord(tag="during", step=2))
    folder.event(PolicyRestarted(step=3))
    folder.restore(records)
    assert folder.read_metrics() == [StepRecord(step=1)]
    assert folder.read_heldout() == [HeldoutRecord(tag="during", step=1)]
    assert len(folder.read_events()) == 1
    folder.restore({})
    assert folder.read_metrics() == folder.read_heldout() == []


def test_the_records_of_a_lost_folder_come_back_with_a_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.metric(StepRecord(step=1))
    elsewhere = RunFolder.create(tmp_path / "elsewhere", RECIPE)
    elsewhere.restore(folder.records())
    assert elsewhere.read_metrics() == [StepRecord(step=1)]


def test_a_line_that_was_cut_is_left_out_and_the_next_one_is_whole(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.metric(StepRecord(step=1))
    folder.event(PolicyRestarted(step=1))
    for name in ("metrics.jsonl", "heldout.jsonl", "events.jsonl"):
        with (tmp_path / "run" / name).open("a") as file:
            file.write('{"step": 2, "kin')
    assert folder.read_metrics() == [StepRecord(step=1)]
    assert len(folder.mend()) == 3
    folder.metric(StepRecord(step=2))
    folder.heldout(HeldoutRecord(tag="during", step=2))
    folder.event(PolicyRestarted(step=2))
    assert folder.read_metrics() == [StepRecord(step=1), StepRecord(step=2)]
    assert folder.read_heldout() == [HeldoutRecord(tag="during", step=2)]
    assert [line.kind for line in folder.read_events()] == ["policy_restarted", *["mended"] * 3, "policy_restarted"]


def test_reading_a_folder_leaves_the_line_that_is_being_written(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", RECIPE)
    being_written = '{"step": 1}\n{"step": 2, "rewa'
    (tmp_path / "run" / "metrics.jsonl").write_text(being_written)
    assert RunFolder.open(tmp_path / "run").read_metrics() == [StepRecord(step=1)]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == being_written


def test_damage_inside_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        folder.read_metrics()


def test_the_status_keeps_the_time_of_the_start(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    started = folder.read_state()["started"]
    folder.state("done")
    state = folder.read_state()
    assert (state["status"], state["started"]) == ("done", started)


def test_nothing_temporary_stays(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    folder.summary({})
    folder.save_grid("before", [("a red circle", images(2, 8))])
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_grid_of_small_images_gives_back_every_pixel(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    rows = [("a red circle", images(3, 32, seed=1)), ("two × «blå» squares", images(2, 32, seed=2))]
    path = folder.save_grid("before", rows)
    assert path == tmp_path / "run" / "samples" / "before.png"
    read = read_grid(path)
    assert [row.caption for row in read] == [caption for caption, _ in rows]
    for row, (_, images_KHWC) in zip(read, rows, strict=True):
        assert np.array_equal(np.stack([np.asarray(image) for image in row.images]), images_KHWC)


def test_small_images_are_enlarged_with_hard_edges(tmp_path: Path) -> None:
    halves = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    halves[:, :, 4:] = (255, 0, 0)
    path = RunFolder.create(tmp_path / "run", RECIPE).save_grid("before", [("a", halves)])
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.crop((16, 40, 112, 136)).getcolors() or []}
    assert colours == {(0, 0, 0), (255, 0, 0)}


def test_large_images_are_reduced_in_the_grid(tmp_path: Path) -> None:
    path = RunFolder.create(tmp_path / "run", RECIPE).save_grid("before", [("wide", images(2, 512)[:, :256])])
    (row,) = read_grid(path)
    assert [image.size for image in row.images] == [(256, 128)] * 2


def test_a_grid_of_anything_but_bytes_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", RECIPE)
    with pytest.raises(ValueError, match="uint8"):
        folder.save_grid("before", [("a", images(2, 8).astype(np.float32))])
    with pytest.raises(ValueError, match="same height and width"):
        folder.save_grid("before", [("a", images(2, 8)), ("b", images(2, 16))])
