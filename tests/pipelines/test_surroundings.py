"""Runs in odd surroundings: no terminal, path, category or encoding changes how a run ends, or what is found of it afterwards."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from pipelines.engine.driver import Driver
from tests.support.plain_run import in_no_time

ODD = "size [/cm] :smile: <b>'\"&"
SHORT = ("--executor", "local", "--set", "heldout.every=100", "--set", "run.name=" + json.dumps(ODD))


@pytest.fixture
def odd_categories(plain_world: Path, tmp_path: Path) -> str:
    """A setting: held-out prompts whose category is ODD."""
    lines = [json.loads(line) for line in (plain_world.parent / "heldout.jsonl").read_text().splitlines()]
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(json.dumps({**line, "category": ODD}) + "\n" for line in lines))
    return f"data.heldout={heldout}"


def test_an_odd_folder_and_odd_words_are_like_any_other(
    plain_world: Path, tmp_path: Path, odd_categories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped; the command to go on, as a shell reads it, does go on. Standard output knows ASCII alone."""
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="ascii"))
    folder = tmp_path / "exp::1" / "'ä\" [" / "b]; x $HOME"
    step_over = Driver.step_over

    def over_then_stopped(driver, train):
        step_over(driver, train)
        if train.step == 1:
            driver.control.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "step_over", over_then_stopped)
        settings = ["--set", odd_categories, "--set", "loop.steps=2", *SHORT]
        assert in_no_time([str(plain_world), "--out", str(folder), *settings]) == 130
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    command = said.getvalue().decode().partition("continue with: ")[2].splitlines()[0]
    words = shlex.split(command.replace("?", "ä"))  # which ASCII lacks
    assert words[:3] == ["python", "-m", "pipelines.train"]
    assert in_no_time(words[3:]) == 0
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert f" {ODD} ".encode() in said.getvalue()
    page = (folder / "report.html").read_text()
    assert "size [/cm] :smile: &lt;b&gt;" in page
    assert "size [/cm] :smile: <b>" not in page


def no_reader() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def full_disk() -> TextIO:
    return open("/dev/full", "w")


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture(params=[no_reader, full_disk, closed])
def lost_output(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    stream = request.param()
    yield stream
    stream.close()


@pytest.mark.parametrize("both", [False, True])
def test_a_run_whose_output_is_lost_ends_as_any_other(
    plain_world: Path, tmp_path: Path, lost_output: TextIO, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", lost_output)
    if both:
        monkeypatch.setattr(sys, "stderr", lost_output)
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), *SHORT, "--set", "loop.steps=1"]) == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "done"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["watcher"] for event in events if event["kind"] == "watcher_lost"] == ["Display"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_last_words_that_cannot_be_said_change_no_end(
    plain_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is a folder where the report should be written."""
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), *SHORT, "--set", "loop.steps=1"]) == 0
    assert "report   could not be written: IsADirectoryError" in capsys.readouterr().out
