"""How a run is reached from outside: a named actor holds its status and passes commands on. It decides nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from typing import Any, Literal

import ray
from ray.exceptions import ActorAlreadyExistsError

from cluster.tasks import Command
from cluster.workers.ray_errors import FETCH_S

NAMESPACE = "echoray"
PREFIX, SUFFIX = "echoray-", "-controller"
PUBLISH_EVERY_S = 1.0
MAKE_AGAIN_S = 5.0


class Controller:
    """The actor. The driver calls `exchange`; `python -m cluster` calls the rest."""

    def __init__(self) -> None:
        self._status: dict[str, Any] | None = None
        self._published = time.monotonic()
        self._commands: list[Command] = []
        self._answers: dict[int, str] = {}
        # so that the ids of one that was made again are new
        self._ids = count(time.time_ns() // 1000)

    def exchange(self, status: dict[str, Any], answers: Mapping[int, str]) -> list[Command]:
        """Take the run's status and its answers; the commands since the last time."""
        self._status, self._published = status, time.monotonic()
        self._answers.update(answers)
        commands, self._commands = self._commands, []
        return commands

    def view(self) -> tuple[dict[str, Any] | None, float]:
        """(the status, or None before the first, and the seconds since it was published)."""
        return self._status, time.monotonic() - self._published

    def ask(self, kind: Literal["scale", "stop"], pool: str = "", size: int = 0) -> int:
        """Leave a command for the run; its id."""
        command = Command(next(self._ids), kind, pool, size)
        self._commands.append(command)
        return command.id

    def answer_to(self, command_id: int) -> str | None:
        """What became of a command; None as long as the run has not said."""
        return self._answers.get(command_id)


class Link:
    """The driver's side. At most one call is under way, about once a second; a controller that dies or hangs is made again.

    The actor is owned by the driver's job and dies with it, however that ends.
    """

    def __init__(self, run: str, env_vars: Mapping[str, str], timeout_s: float = 60.0) -> None:
        self._run = run
        self._timeout_s = timeout_s
        self._actor_class = ray.remote(num_cpus=0, max_restarts=0, runtime_env={"env_vars": dict(env_vars)})(Controller)
        self._actor: ray.actor.ActorHandle | None = None
        self._reply: ray.ObjectRef | None = None
        self._sent = 0.0
        self._next = 0.0
        self._answers: dict[int, str] = {}

    def exchange(self, status: Mapping[str, Any]) -> list[Command]:
        """See `Executor.exchange`."""
        commands = self._collect() if self._reply is not None else []
        if self._reply is None and time.monotonic() >= self._next:
            self._send(dict(status))
        return commands

    def answer(self, command_id: int, text: str) -> None:
        """Goes with the next status."""
        self._answers[command_id] = text

    def close(self) -> list[ray.actor.ActorHandle]:
        """End the actor; its handle, if there is one."""
        ended = [] if self._actor is None else [self._actor]
        for actor in ended:
            ray.kill(actor)
        self._actor = self._reply = None
        return ended

    def _send(self, status: dict[str, Any]) -> None:
        if self._actor is None:
            self._actor = self._make()
        self._sent = time.monotonic()
        self._next = self._sent + PUBLISH_EVERY_S
        self._reply = self._actor.exchange.remote(status, self._answers)
        self._answers = {}

    def _collect(self) -> list[Command]:
        ready, _ = ray.wait([self._reply], timeout=0)
        if not ready and time.monotonic() < self._sent + self._timeout_s:
            return []
        try:
            commands = ray.get(self._reply, timeout=FETCH_S if ready else 0)
        except ray.exceptions.RayError:  # it died, or hangs
            self.close()
            self._next = time.monotonic() + MAKE_AGAIN_S
            return []
        self._reply = None
        return commands

    def _make(self) -> ray.actor.ActorHandle:
        """The actor under the run's name, or with a number behind it if another run on the cluster has that name."""
        for number in count(1):
            run = self._run if number == 1 else f"{self._run}-{number}"
            try:
                return self._actor_class.options(name=actor_name(run), namespace=NAMESPACE).remote()
            except ActorAlreadyExistsError:
                continue
        raise AssertionError("unreachable")


def actor_name(run: str) -> str:
    """The name of a run's controller in NAMESPACE."""
    return f"{PREFIX}{run}{SUFFIX}"


def run_of(name: str) -> str:
    """The run whose controller has this name."""
    return name.removeprefix(PREFIX).removesuffix(SUFFIX)
