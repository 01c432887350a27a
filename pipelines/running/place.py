"""Where a run is to be, and that it alone writes there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipelines.run_folder.lease import Lease
from pipelines.run_folder.location import RunLocation, check_writable


def out_of(options: argparse.Namespace) -> str:
    """Where the run is to be: --out, or a new folder under runs/."""
    if options.out is not None:
        return options.out
    return f"runs/{options.recipe.stem}-{time.strftime('%Y%m%d-%H%M%S')}"


@contextmanager
def leases(place: RunLocation, root: str, take_over: bool, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Within it this run alone writes in its folder and its place of checkpoints; what it gives raises PlaceTaken once it does not."""
    places = {place.final: (place.shown, place.key)}
    if not f"{root}/".startswith(f"{place.final}/"):
        places[root] = (root, "loop.checkpoints")
    with ExitStack() as stack:
        held = []
        for at, (shown, key) in places.items():
            check_writable(at, key)
            held.append(stack.enter_context(Lease(at, shown, take_over, say)))

        def check() -> None:
            for lease in held:
                lease.check()

        yield check
