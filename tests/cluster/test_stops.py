"""A program that is asked to stop: by which signals, how often, and what becomes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence

import pytest

from cluster import speaking, stops
from cluster.stops import Stops

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number: signal.Signals, times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def heard_by_default() -> Iterator[None]:
    """Whoever started the tests may have told them to ignore SIGHUP, as nohup does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests that were told, and a clock that each of them finds a minute later."""
    clock = iter(range(60, 10_000, 60))
    monkeypatch.setattr(stops.time, "monotonic", lambda: next(clock))
    return []


@pytest.mark.parametrize("number", ALL)
def test_a_program_that_is_asked_to_stop_ends_with_130(number: signal.Signals) -> None:
    def main(arguments: Sequence[str] | None) -> int:
        send(number)
        raise AssertionError("it goes on")

    before = signal.getsignal(number)
    assert speaking.program(main)([]) == 130
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", ALL)
def test_two_signals_at_once_are_one_request(number: signal.Signals, told: list[str]) -> None:
    with Stops().heard() as heard:
        heard.tell(lambda: told.append("asked"))
        send(number)
        assert told == ["asked"]
        with pytest.MonkeyPatch.context() as still:
            still.setattr(stops.time, "monotonic", lambda: 60.5)
            send(number)
        send(number)
    assert told == ["asked", "asked"]


def test_a_hangup_that_is_ignored_stays_so_and_others_are_heard(told: list[str]) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stops().heard() as heard:
            heard.tell(lambda: told.append("asked"))
            send(signal.SIGHUP)
            assert told == []
            send(signal.SIGTERM)
            assert told == ["asked"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_that_came_before_is_told_later(told: list[str]) -> None:
    with Stops().heard() as heard:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        heard.tell(lambda: told.append("asked"))
    assert told == ["asked"]
