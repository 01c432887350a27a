"""`caption` as it is called, in one process and with a plain writer: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.captioning.prompts import Prompts
from pipelines.data.prompts import load_prompts
from pipelines.report import main as report
from tests.support.caption_world import BROKEN, LONG, MOMENTS, MUTE, ROWS, STEP, TERSE, main_with, make_caption_world

FAILED = {BROKEN, MUTE, TERSE}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_caption_world(tmp_path)


def caption(recipe: Path, out: Path, *more: str) -> int:
    """The exit code; what is described is noted in a file beside the folder."""
    return main_with(log=out.with_suffix(".log"))([str(recipe), "--out", str(out), "--executor", "local", *more])


def rows_of(out: Path, folder: str = "captions") -> list[dict[str, Any]]:
    return [row for path in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def prompts_of(out: Path, part: str) -> list[dict[str, Any]]:
    path = out / "prompts" / f"{part}.parquet"
    return pq.read_table(path).to_pylist() if path.is_file() else []


def summary_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


def described(out: Path) -> list[int]:
    """The pictures that were described, by their numbers, in the order in which they were."""
    log = out.with_suffix(".log")
    return [int(line) // STEP for line in log.read_text().splitlines()] if log.is_file() else []


def test_every_image_has_its_caption_or_the_reason_why_it_has_none(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert caption(recipe, out) == 0
    rows = rows_of(out)
    assert [row["file_name"] for row in rows] == [f"{row:02d}.png" for row in range(ROWS)]
    assert {row["row"] for row in rows if row["reason"]} == FAILED
    assert [rows[row]["caption"] for row in FAILED] == [None] * 3
    assert "no image" in rows[BROKEN]["reason"]
    assert rows[MUTE]["reason"] == "the server said nothing"
    assert dict(rows[MUTE]["tries"]) == summary_of(out)["tries"] == {"429": 2, "nothing": 1}
    assert rows[TERSE]["reason"] == "only 1 words: 'grey'"
    assert rows[0]["caption"].startswith("a grey square of brightness 0, drawn as number ")
    summary = summary_of(out)
    known = {"status": "done", "rows": ROWS, "captions": ROWS - 3, "failed": 3, "cut": 1}
    assert {key: summary[key] for key in known} == known


def test_a_long_caption_is_cut_at_a_word_and_marked(recipe: Path, tmp_path: Path) -> None:
    caption(recipe, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["row"] for row in rows if row["cut"]] == [LONG]
    assert (rows[LONG]["words"], len(rows[LONG]["caption"].split())) == (12, 12)


def test_captions_become_a_prompt_set_whose_parts_share_none(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    caption(recipe, out)
    train, heldout = prompts_of(out, "train"), prompts_of(out, "heldout")
    captions = {row["caption"] for row in rows_of(out) if row["caption"]}
    assert {prompt["caption"] for prompt in [*train, *heldout]} == captions
    assert not {prompt["id"] for prompt in train} & {prompt["id"] for prompt in heldout}
    assert train
    assert heldout
    read = load_prompts(str(out / "prompts/train.parquet"), "data.train")
    assert [(prompt.id, prompt.caption) for prompt in read] == [(prompt["id"], prompt["caption"]) for prompt in train]


def test_what_is_held_out_depends_on_the_caption_alone() -> None:
    few, many = Prompts(0.3), Prompts(0.3)
    for number in range(40):
        few.add(f"caption {number}", "a")
    for number in reversed(range(200)):
        many.add(f"caption {number}", "b")
    held = {record["caption"] for record in few.parts["heldout"]}
    assert held == {f"caption {n}" for n in range(40)} & {record["caption"] for record in many.parts["heldout"]}
    assert 0.2 < len(many.parts["heldout"]) / 200 < 0.4


def test_a_caption_comes_once_and_none_that_is_to_stay_out() -> None:
    prompts = Prompts(0.0, apart_from={"of a benchmark"})
    for text in ("a cat", "of a benchmark", "a cat", "a dog"):
        prompts.add(text, "a")
    assert [record["caption"] for record in prompts.parts["train"]] == ["a cat", "a dog"]
    assert (prompts.repeats, prompts.left_out) == (1, 1)


def test_captions_of_a_benchmark_are_left_out(recipe: Path, tmp_path: Path) -> None:
    out, apart = tmp_path / "run", tmp_path / "benchmark.txt"
    caption(recipe, tmp_path / "first")
    apart.write_text(rows_of(tmp_path / "first")[0]["caption"] + "\n")
    assert caption(recipe, out, "--set", f"captions.apart_from={apart}") == 0
    assert apart.read_text().strip() not in {
        one["caption"] for one in prompts_of(out, "train") + prompts_of(out, "heldout")
    }
    assert summary_of(out)["left_out"] == 1


def test_parquet_and_metadata_without_captions_are_image_sets_here(recipe: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    lines = [json.dumps({"file_name": f"{row:02d}.png"}) for row in range(4)]
    (tmp_path / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
    assert caption(recipe, tmp_path / "of-lines") == 0
    images = [(tmp_path / "pictures" / f"{row:02d}.png").read_bytes() for row in range(4)]
    pq.write_table(pa.table({"image": images}), tmp_path / "images.parquet")
    assert caption(recipe, tmp_path / "of-parquet", "--set", f"data.images={tmp_path}/images.parquet") == 0
    brightness = [
        [row["caption"] and row["caption"].split()[5] for row in rows_of(tmp_path / name)]
        for name in ("of-lines", "of-parquet")
    ]
    assert brightness == [["0,", "9,", "18,", None]] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("captions.min_words=20",), "no caption is both"),
        (("captions.apart_from=none.txt",), "captions.apart_from"),
        (("data.images=none",), "there is nothing there"),
        (("writer.top_p=0.5",), "temperature"),
        (("writer.temprature=1",), "temperature"),
    ],
)
def test_a_users_mistake_is_told_before_anything_begins(
    recipe: Path, tmp_path: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption(recipe, tmp_path / "run", *(word for each in words for word in ("--set", each))) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_writer_that_is_not_there_is_told_by_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_caption_world(tmp_path)
    assert caption(recipe, tmp_path / "run", "--set", "writer.model=./no/such") == 2
    assert "writer.model" in capsys.readouterr().err


def test_a_run_goes_on_with_what_is_not_written(recipe: Path, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    caption(recipe, whole)
    shutil.copytree(whole, halved)
    kept = sorted((halved / "captions").glob("*.parquet"))
    for path in kept[0::2]:
        path.unlink()
    assert caption(recipe, halved, "--resume") == 0
    assert rows_of(halved) == rows_of(whole)
    assert summary_of(halved)["digest"] == summary_of(whole)["digest"]
    on_disk = {row for file in (1, 3, 5) for row in range(4 * file, 4 * file + 4)} - FAILED
    assert on_disk.isdisjoint(described(halved))


def test_the_page_shows_images_beside_their_captions_and_what_failed(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    caption(recipe, out)
    written = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert report([str(out)]) == 0
    page = (out / "report.html").read_text()
    assert page.split("<footer>")[0] == written.split("<footer>")[0]
    assert "the server said nothing" in page
    assert "a grey square of brightness 0" in page
    assert page.count("data:image/png;base64") == ROWS - 3
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that nothing happened to, `whole`, and one for each of the moments, by their numbers."""
    folder = tmp_path_factory.mktemp("world")
    recipe = make_caption_world(folder)
    assert caption(recipe, folder / "whole") == 0
    subprocess.run([sys.executable, "-m", "tests.support.caption_world", str(folder), str(recipe)], check=True)
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_image_is_described_again_that_was_on_disk_when_the_run_was_killed(killed: Path, moment: str) -> None:
    out = killed / str(list(MOMENTS).index(moment))
    on_disk = {row["row"] for row in rows_of(out) if row["reason"] is None}
    assert len(on_disk) >= MOMENTS[moment].kept
    out.with_suffix(".log").unlink(missing_ok=True)
    assert caption(killed / "recipe.toml", out, "--resume") == 0
    assert on_disk.isdisjoint(described(out))
    assert len(set(described(out))) == len(described(out))
    assert rows_of(out) == rows_of(killed / "whole")
    assert summary_of(out)["digest"] == summary_of(killed / "whole")["digest"]
    for part in ("train", "heldout"):
        assert prompts_of(out, part) == prompts_of(killed / "whole", part)
