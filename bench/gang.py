"""Processes that meet each other as policy ranks do, without Ray."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> list[dict[str, Any]]:
    """What the processes of a gang send after they have met."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=work, args=(theirs, rank, count, *arguments), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for each in processes:
        each.start()
    address = pipes[0][0].recv()
    for mine, _ in pipes:
        mine.send(address)
    results = [mine.recv() for mine, _ in pipes]
    for each in processes:
        each.kill()
        each.join()
    return results
