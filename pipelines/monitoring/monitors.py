"""Which watchers a recipe asks for, beside the display."""

from __future__ import annotations

from pipelines.monitoring.watchers import Watcher
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder


def check_monitors(recipe: Recipe) -> None:
    """To be called before any worker starts. Raises UserError for a watcher that cannot be had."""
    if recipe.monitor.wandb:
        from pipelines.monitoring.wandb_watcher import check_wandb

        check_wandb(recipe.monitor.wandb)


def monitors(recipe: Recipe, folder: RunFolder, on_ray: bool, step: int) -> list[Watcher]:
    """The watchers, not opened. on_ray: this process has joined a Ray cluster; step: from where the run goes on."""
    chosen: list[Watcher] = []
    if on_ray:
        from pipelines.monitoring.ray_metrics import RayMetrics

        chosen.append(RayMetrics(folder.path.name))
    if recipe.monitor.tensorboard:
        from pipelines.monitoring.tensorboard import TensorBoard

        chosen.append(TensorBoard(folder, step, recipe.model_dump(mode="json", exclude_none=True)))
    if recipe.monitor.wandb:
        from pipelines.monitoring.wandb_watcher import WeightsAndBiases

        chosen.append(WeightsAndBiases(recipe, folder, step))
    return chosen
