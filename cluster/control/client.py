"""Finds the runs on a cluster and talks to one: what `python -m cluster` stands on. Starts nothing."""

from __future__ import annotations

import os
import shlex
import time
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.connect import visit
from cluster.control.controller import NAMESPACE, PREFIX, actor_name, run_of
from cluster.errors import ClusterError, UserError
from cluster.joining.address import CannotJoin, answers
from cluster.joining.here import clusters_here

CALL_S = 30.0
ANSWER_S = 120.0
HERE = ("", "auto", "local")  # what Ray takes for an address and is none


class RunGone(ClusterError):
    """The run is not to be reached."""


class RunEnded(RunGone):
    """The run has ended."""


class Run:
    """A run, through its controller. Every method raises RunGone."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._controller = ray.get_actor(actor_name(name), namespace=NAMESPACE)
        except ValueError as error:
            raise RunEnded(f"the run {name} has ended") from error

    def view(self) -> tuple[dict[str, Any] | None, float]:
        """(its status, or None before the first, and the seconds since it was published)."""
        return self._call("view")

    def ask(self, kind: Literal["scale", "stop"], pool: str = "", size: int = 0) -> str:
        """Give a command and wait for the run's answer."""
        command_id = self._call("ask", kind, pool, size)
        give_up = time.monotonic() + ANSWER_S
        while (answer := self._call("answer_to", command_id)) is None:
            if time.monotonic() > give_up:
                raise RunGone(f"the run {self.name} has taken the command, but gave no answer within {ANSWER_S:.0f} s")
            time.sleep(0.1)
        return answer

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(getattr(self._controller, method).remote(*args), timeout=CALL_S)
        except RayActorError as error:
            time.sleep(1.0)  # when a run ends, its actors do not all go at once
            if self._has_workers():
                again = "it is made again within seconds; look at the status before you repeat a command"
                raise RunGone(f"the controller of the run {self.name} has died: {again}") from error
            raise RunEnded(f"the run {self.name} has ended") from error
        except GetTimeoutError as error:
            raise RunGone(f"the run {self.name} does not answer within {CALL_S:.0f} s") from error

    def _has_workers(self) -> bool:
        if not answers(ray.get_runtime_context().gcs_address):  # a cluster that the run had started for itself
            return False
        actors = ray.util.list_named_actors(all_namespaces=True)
        return any(actor["name"].startswith(f"{PREFIX}{self.name}-") for actor in actors)


def find_run(address: str, name: str | None) -> Run:
    """The one run that is meant; its cluster is joined. `address`: "" is RAY_ADDRESS, else the clusters on this machine.

    Raises UserError when there is no such run, or more than one.
    """
    address, source = (address, "--address") if address else (os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS")
    addresses = list(clusters_here()) if address in HERE else [address]
    if not addresses:
        raise UserError(
            "no Ray cluster runs on this machine: start a run, or name its cluster with --address HOST:PORT or RAY_ADDRESS"
        )
    found, refusals = [], []
    for place in addresses:
        try:
            visit(place, source if place == address else "found on this machine")
        except CannotJoin as error:  # of those that were found, one may just have ended, or be another user's
            refusals.append(str(error))
            continue
        found += [(place, run) for run in runs_on_cluster()]
    if len(refusals) == len(addresses):
        raise UserError("\n".join(refusals))
    meant = [(place, run) for place, run in found if name in (None, run)]
    if not found:
        raise UserError(f"there is no run on the cluster at {' or '.join(addresses)}")
    if not meant:
        raise UserError(f"there is no run {name}, only {', '.join(run for _, run in found)}")
    if len(meant) > 1:
        listed = "\n".join(f"  --run {shlex.quote(run)} --address {shlex.quote(place)}" for place, run in meant)
        raise UserError(f"there are several runs; choose one:\n{listed}")
    [(place, run)] = meant
    if ray.get_runtime_context().gcs_address != place:
        visit(place, source)
    return Run(run)


def runs_on_cluster() -> list[str]:
    """The names of the runs on the cluster that this process has joined."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(run_of(actor["name"]) for actor in actors if actor["namespace"] == NAMESPACE)
