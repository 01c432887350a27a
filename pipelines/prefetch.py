"""Downloads a recipe's models before any worker starts: once on every node of the Ray cluster that may get one, or on this machine.

    python -m pipelines.prefetch RECIPE [--set key=value ...]

Of any program: train, score, evaluate, caption.

With RAY_ADDRESS, or inside a job, a node gets what the workers that fit it will read; without it, this machine gets all. Files go to the
hub's cache of each node (HF_HOME), with that node's own HF_TOKEN and HF_HUB_OFFLINE. A model that is a folder stays where it is.
Exit codes: 0 all is there, 2 a model cannot be downloaded or used, 1 a node failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence

from rich.console import Console

from actors.models.hub import OnDisk, bring_here
from actors.models.kinds import NamedModel
from cluster import speaking
from cluster.speaking import FAILED, MISTAKE
from pipelines.planning.given import Read, given_by, load_any
from pipelines.preflight import checks
from pipelines.preflight.memory.cards import GIB
from pipelines.recipe.arguments import path_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.recipe.training import Recipe

QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # on nodes: bars of many processes would be one heap


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    recipe, console = load_any(options.recipe, options.set), speaking.console()
    if os.environ.get("RAY_ADDRESS", "").strip() in ("", "local"):
        return fetch_here(read_by_pool(recipe), console)
    return fetch_on_nodes(recipe, console)


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.prefetch", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("recipe", type=path_of, help="a TOML file, such as recipes/sd35m_8gpu.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    return parser


def read_by_pool(recipe: Recipe | MapRecipe) -> Read:
    """The models that the workers of each pool read."""
    if isinstance(recipe, MapRecipe):
        return given_by(recipe).read
    named = checks.named_models(recipe.policy, recipe.rewards)
    read: Read = dict.fromkeys(("policy", "rollout"), (named["policy.model"],))
    for key, judge in named.items():
        if (pool := key.rpartition(".")[0]) in recipe.rewards:
            read[pool] = (*read.get(pool, ()), judge)
    return read


def models_of(read: Read, pools: Collection[str]) -> list[NamedModel]:
    """What workers of these pools read, each once."""
    return list(dict.fromkeys(named for pool, models in read.items() if pool in pools for named in models))


def fetch_here(read: Read, console: Console) -> int:
    """All models to this machine."""
    try:
        tell(console, bring_here(models_of(read, read)))
    except ValueError as error:  # a Mistake, or a name that can be none
        raise UserError(str(error)) from None
    return 0


def fetch_on_nodes(recipe: Recipe | MapRecipe, console: Console) -> int:
    """Each node's models to that node, all nodes at once. Raises CannotJoin, or UserError where no node is for a worker."""
    from cluster.connect import connect
    from cluster.workers.on_nodes import call_on, homes
    from pipelines.training.pools import pool_specs

    speaking.say(console, connect())
    pools = given_by(recipe).pools if isinstance(recipe, MapRecipe) else pool_specs(recipe)
    read, nodes = read_by_pool(recipe), homes([spec for spec in pools if not spec.beside_driver])
    if not nodes:
        raise UserError("no node of the cluster can hold a worker of this recipe: its program says why")
    codes = [0]
    calls = call_on(nodes, bring_here, lambda home: (models_of(read, home.pools),), (ValueError,), QUIET)
    for home, found, failure in calls:
        where = f"node {home.address}: "
        if failure:
            kind, code = ("error", MISTAKE) if failure.cause == "mistake" else ("failed", FAILED)
            codes.append(speaking.fail(kind, where + failure.message, code))
        else:
            tell(console, found, where)
    return max(codes)


def tell(console: Console, found: Sequence[OnDisk], where: str = "") -> None:
    """A line for each model."""
    for model in found:
        size = f"{model.num_bytes / GIB:.1f} GiB"
        there = "is a folder, nothing to download" if model.given else f"is in {model.folder}"
        speaking.say(console, f"{where}{model.model} {there} ({size})")


if __name__ == "__main__":
    sys.exit(main())
