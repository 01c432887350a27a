"""What a job's log and a terminal show while a run waits for its workers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.monitoring import start_line
from pipelines.monitoring.start_line import Starting


def said_in_a_log(words: list[str]) -> list[str]:
    log = io.StringIO()
    with Starting(Console(file=log, width=40)) as line:
        for text in words:
            line(text)
    return log.getvalue().splitlines()


def test_a_log_has_the_same_line_once_for_a_while() -> None:
    assert said_in_a_log(["waiting for nodes"] * 5) == ["waiting for nodes"]


def test_a_log_has_the_same_line_again_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_line, "AGAIN_S", 0.0)
    assert said_in_a_log(["waiting for nodes"] * 3) == ["waiting for nodes"] * 3


def test_a_log_has_each_change_whole_in_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_line, "CHANGED_S", 0.0)
    first, then = "label: no node has room=[easel], which the pool rollout asks for", "starting workers"
    assert said_in_a_log([first, first, then, then]) == [first, then]


def test_a_terminal_has_one_line_that_changes() -> None:
    terminal = io.StringIO()
    with Starting(Console(file=terminal, width=80, force_terminal=True)) as line:
        line("no node has room=[easel]")
    assert "no node has room=[easel]" in terminal.getvalue()
