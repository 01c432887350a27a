"""What the recipes of all programs have that train nothing."""

from __future__ import annotations

from typing import Annotated

from actors.options import Change, Table
from pipelines.recipe.tables import Cluster, Run

READER = "reader"  # the pool that reads images, where there is one


class MapRecipe(Table):
    """One run of such a program."""

    run: Run = Run()
    cluster: Annotated[Cluster, Change.FREE] = Cluster()
