"""A program that trains nothing, in virtual time: its real driver and work, told to stop, or killed, after so many turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import PoolSpec
from pipelines.engine.driver import Driver, W
from pipelines.monitoring.watchers import Watchers
from pipelines.recipe.load import dump_recipe
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation
from pipelines.run_folder.roster import Roster
from pipelines.running.job import Start
from pipelines.running.mapping import MapWork, map_driver


def virtual_driver(
    out: Path,
    recipe: MapRecipe,
    specs: Sequence[PoolSpec],
    work: Callable[[RunFolder, VirtualExecutor], W],
    stop: int | None = None,
    kill: int | None = None,
) -> Driver[W]:
    """Of a run in a folder, which it goes on with if there is one."""
    folder = RunFolder.open(out) if out.exists() else RunFolder.create(out, dump_recipe(recipe))
    executor, turns = VirtualExecutor(specs), iter(range(10**6))

    def check() -> None:
        turn = next(turns)
        driver.control.stopping |= turn == stop
        if turn == kill:
            raise KeyboardInterrupt

    start = Start(executor, Roster(True), RunLocation(str(out)), folder, Watchers(), "", check)
    driver = map_driver(work(folder, executor), recipe, start)
    return driver


def files(driver: Driver[MapWork]) -> dict[str, bytes]:
    """What it has written: the bytes of the Parquet files by their names."""
    return {path.name: path.read_bytes() for path in driver.work.shards.folder.glob("*.parquet")}
