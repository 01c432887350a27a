"""`score` as it is called, in one process and with plain judges: what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.messages import Prompt, Scores
from pipelines.report import main as report
from pipelines.scoring.columns import schema_of
from tests.support.plain_world import PlainReward
from tests.support.score_world import BROKEN, GREEN, MISSING, ROWS, main, make_score_world

NAME = "promptecho"
TWO = """
[[reward]]
name = "one"
model = "plain/taste-one"
[[reward]]
name = "other"
model = "plain/deaf-to-green"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_score_world(tmp_path)


def score(recipe: Path, out: Path, *more: str) -> int:
    return main([str(recipe), "--out", str(out), "--executor", "local", *more])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "scores").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def summary_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


def test_every_row_has_its_score_or_the_reason_why_it_has_none(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert score(recipe, out) == 0
    rows = rows_of(out)
    assert [row["row"] for row in rows] == list(range(ROWS))
    assert [row["file_name"] for row in rows] == [f"{row}.png" for row in range(ROWS)]
    failed = {row["row"]: row["reason"] for row in rows if row["reason"]}
    assert failed.keys() == {MISSING, BROKEN, GREEN}
    assert [rows[row][NAME] for row in failed] == [None] * 3
    assert "there is no file" in failed[MISSING]
    assert "damaged" in failed[BROKEN] or "no image" in failed[BROKEN]
    assert "knows no green" in failed[GREEN]
    good = rows[0]
    assert good[NAME] == pytest.approx(sum(good[f"{NAME}.log_probs"]), rel=1e-5)
    assert good[f"{NAME}.tokens"] == good["caption"].split()
    summary = summary_of(out)
    assert {key: summary[key] for key in ("status", "rows", "failed")} == {"status": "done", "rows": ROWS, "failed": 3}
    assert summary["seconds"] > 0
    assert summary["rewards"][NAME]["count"] == ROWS - 3


def test_each_of_two_rewards_has_a_column_and_what_one_cannot_score_the_other_may(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert score(make_score_world(tmp_path, TWO), out) == 0
    rows = rows_of(out)
    assert rows[GREEN]["other"] is None
    assert "knows no green" in rows[GREEN]["reason"]
    assert rows[GREEN]["one"] < 0
    assert rows[0]["one"] != rows[0]["other"]
    assert {name: said["count"] for name, said in summary_of(out)["rewards"].items()} == {
        "one": ROWS - 2, "other": ROWS - 3,
    }  # fmt: skip


def test_a_judge_that_fails_again_and_again_on_a_row_takes_nothing_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = PlainReward.score

    def failing(self: PlainReward, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        if self.model == "plain/deaf-to-green" and prompt.caption.endswith(" 7"):
            raise RuntimeError("out of memory")
        return scored(self, prompt, images_KHWC)

    monkeypatch.setattr(PlainReward, "score", failing)
    assert score(make_score_world(tmp_path, TWO), tmp_path / "run") == 0
    rows = rows_of(tmp_path / "run")
    assert {row["row"] for row in rows if row["reason"]} == {MISSING, BROKEN, GREEN, 7}
    assert (rows[7]["other"], rows[7]["reason"]) == (None, "other: RuntimeError: out of memory")
    assert rows[7]["one"] < 0


def test_a_run_in_which_one_of_two_rewards_scored_nothing_did_not_fail(tmp_path: Path) -> None:
    recipe, out = make_score_world(tmp_path, TWO), tmp_path / "run"
    pictures = tmp_path / "green"
    pictures.mkdir()
    (pictures / "a.txt").write_text("a green cross")
    shutil.copyfile(tmp_path / "pictures" / "0.png", pictures / "a.png")
    assert score(recipe, out, "--set", f"data.images={pictures}") == 0
    assert summary_of(out)["failed"] == 1
    assert rows_of(out)[0]["one"] is not None


@pytest.mark.parametrize("column", schema_of({}).names)
def test_a_reward_may_not_be_named_as_another_column_is(
    tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(make_score_world(tmp_path, TWO.replace('"one"', f'"{column}"')), tmp_path / "run") == 2
    assert f'reward.name = "{column}": another column has that name' in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_page_shows_both_ends_with_their_words_and_what_failed(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    score(recipe, out)
    written = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert report([str(out)]) == 0
    page = (out / "report.html").read_text()
    assert page.split("<footer>")[0] == written.split("<footer>")[0]
    assert "knows no green" in page
    assert 'title="log p' in page
    assert "data:image/png;base64" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_without_tokens_none_are_kept(recipe: Path, tmp_path: Path) -> None:
    score(recipe, tmp_path / "run", "--set", "scores.tokens=false")
    assert rows_of(tmp_path / "run")[0].keys() == {"row", "file_name", "caption", NAME, "reason"}


def test_a_run_goes_on_with_what_is_not_written_and_has_the_digest_of_one_that_was_never_stopped(
    recipe: Path, tmp_path: Path
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    score(recipe, whole)
    shutil.copytree(whole, halved)
    kept = sorted((halved / "scores").glob("*.parquet"))
    for path in kept[0::2]:
        path.unlink()
    kept[2].write_bytes(b"PAR1 and then the power went")  # only a whole file counts
    written_at = kept[3].stat().st_mtime_ns
    assert score(recipe, halved, "--resume") == 0
    assert kept[3].stat().st_mtime_ns == written_at
    assert rows_of(halved) == rows_of(whole)
    assert summary_of(halved)["digest"] == summary_of(whole)["digest"]


def test_what_was_mended_has_its_score_after_a_resume(recipe: Path, tmp_path: Path) -> None:
    out, missing = tmp_path / "run", tmp_path / "pictures" / f"{MISSING}.png"
    score(recipe, out)
    shutil.copyfile(tmp_path / "pictures" / "0.png", missing)
    assert score(recipe, out, "--resume") == 0
    assert {row["row"] for row in rows_of(out) if row["reason"]} == {BROKEN, GREEN}
    assert rows_of(out)[MISSING][NAME] is not None
    assert summary_of(out)["failed"] == 2


@pytest.mark.parametrize("name", ["inputs.json", "scores.json", "summary.json", "events.jsonl"])
def test_a_damaged_file_does_not_keep_a_run_from_going_on(recipe: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    score(recipe, out)
    whole = summary_of(out)["digest"]
    (out / name).write_bytes(b'{"half')
    assert score(recipe, out, "--resume") == 0
    assert summary_of(out)["digest"] == whole
    assert (out / f"{name}.damaged").is_file()


def test_another_pool_size_or_place_may_be_given_to_a_run_that_goes_on_but_no_other_set_or_judge(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved"
    score(recipe, out)
    shutil.copytree(tmp_path / "pictures", moved)
    assert score(recipe, out, "--resume", "--set", "reward.size=2", "--set", f"data.images={moved}") == 0
    assert score(recipe, out, "--resume", "--set", "reward.model=plain/other") == 2
    assert "reward.model = 'plain/other' (the run has" in capsys.readouterr().err
    metadata = moved / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("red", "blue", 1))
    assert score(recipe, out, "--resume", "--set", f"data.images={moved}") == 2
    assert "data.images is not what the run began with" in capsys.readouterr().err


def test_a_set_of_which_nothing_can_be_scored_is_a_failed_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "pictures").glob("*.png"):
        path.unlink()
    assert score(recipe, tmp_path / "run") == 1
    assert "no row could be scored" in capsys.readouterr().out
    summary = summary_of(tmp_path / "run")
    assert (summary["status"], summary["failed"], summary["rewards"][NAME]["mean"]) == ("failed", ROWS, None)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--set", "data.images=nowhere"), "data.images = 'nowhere'"),
        (("--set", 'reward={type = "aesthetic", model = "a/b", head = "no.safetensors"}'), "there is no such file"),
        (("--set", "scores.shard_row=4"), "did you mean shard_rows?"),
        (("--set", "rollout.size=2"), "allowed are run, cluster, data, reader, reward, scores"),
    ],
)
def test_a_mistake_ends_it_before_anything_is_written(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    assert score(recipe, tmp_path / "run", *more) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_whose_end_cannot_be_written_has_failed_and_goes_on_once_there_is_room(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.score.write_summary", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        )
        assert score(recipe, out) == 1
    assert json.loads((out / "status.json").read_text())["status"] == "failed"
    assert score(recipe, out, "--resume") == 0
    assert summary_of(out)["written"] == ROWS


def test_a_folder_with_a_run_is_not_begun_anew(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(recipe, tmp_path / "run")
    assert score(recipe, tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err
