"""The table of plans: how many workers each pool has, how busy they are, and what limits the speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.planning.run import WAITING
from pipelines.planning.splits import Plan, Split, own_split
from pipelines.planning.sureness import OFF
from pipelines.preflight.memory.cards import GIB
from pipelines.recipe.reward import name_of


def plans_table(
    title: str,
    shown: Sequence[Plan],
    best: Plan | None,
    own: Split | None = None,
    shares: Mapping[Split, float] | None = None,
) -> Table:
    """A line per plan, the best set off, and the recipe's own marked. `shares`: what a split keeps of the best speed if a time is off."""
    rewards = list(shown[0].recipe.rewards)
    names = [name_of(pool) for pool in rewards]
    sizes = [pool.replace(".", ".\n") for pool in ("rollout", *rewards)]
    busy = f"busy %: rollout/\n{'/'.join(names)}/policy/driver"
    columns = ("", "ranks", *sizes, "GPUs", "S", "images/s", "GPU-hours", "step s", busy,
               "stale-\nness", "GiB in\nflight", "limited by", *(["at\n±25 %"] if shares else []))  # fmt: skip
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    for each in shown:
        recipe, figures = each.recipe, each.figures
        split = own_split(recipe)
        made.add_row(
            "own" if split == own else "", *(str(count) for count in (split.ranks, split.rollouts, *split.rewards)),
            f"{each.gpus:g}", str(recipe.loop.staleness), f"{figures.images_per_s:.4g}", f"{each.gpu_hours:.4g}", f"{figures.step_s:.4g}",
            "/".join(f"{100 * figures.busy[pool]:.0f}" for pool in ("rollout", *rewards, "policy", "driver")), f"{figures.staleness:.2f}",
            f"{figures.bytes_peak / GIB:.2f}", figures.bottleneck,
            *([f"{shares[split]:.0%}"] if shares else []), style="bold" if each is best else "",
        )  # fmt: skip
    captions = ["GPU-hours: for all of loop.steps"]
    if shares:
        captions.append(
            f"at ±25 %: the least share of the best speed if draws, scores or updates take {OFF:.0%} more or less"
        )
    if any(each.figures.bottleneck == WAITING for each in shown):
        captions.append(f"{WAITING}: no pool is busy all the time, the stages wait for each other")
    made.caption = "; ".join(captions)
    return made
