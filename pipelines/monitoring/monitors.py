"""Which watchers a recipe asks for, beside the display."""

from __future__ import annotations

from actors.options import Table
from pipelines.monitoring.watchers import Watcher
from pipelines.recipe.tables import Monitor
from pipelines.run_folder.folder import RunFolder


def check_monitors(monitor: Monitor) -> None:
    """To be called before any worker starts. Raises UserError for a watcher that cannot work here."""
    if monitor.wandb:
        from pipelines.monitoring.wandb_watcher import check_wandb

        check_wandb(monitor.wandb)


def monitors(monitor: Monitor, recipe: Table, name: str, folder: RunFolder, on_ray: bool, step: int) -> list[Watcher]:
    """The watchers, not opened.

    recipe: they show every key of it; name: the run's; on_ray: this process has joined a Ray cluster; step: from where the run goes on.
    """
    chosen: list[Watcher] = []
    keys = recipe.model_dump(mode="json", exclude_none=True)
    if on_ray:
        from pipelines.monitoring.ray_metrics import RayMetrics

        chosen.append(RayMetrics(folder.path.name))
    if monitor.tensorboard:
        from pipelines.monitoring.tensorboard import TensorBoard

        chosen.append(TensorBoard(folder, step, keys))
    if monitor.wandb:
        from pipelines.monitoring.wandb_watcher import WeightsAndBiases

        chosen.append(WeightsAndBiases(monitor.wandb, name, keys, folder, step))
    return chosen
