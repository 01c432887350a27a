"""Before the first row is scored: a run is begun, or the one in the folder is known again."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from os.path import isfile, join
from pathlib import Path
from typing import Any

from actors.models.folder import CHECKS
from actors.models.path import MARKERS, check_model
from cluster.storage import files
from pipelines.data.images import ImageRow, sha256_of
from pipelines.recipe.changes import differences, refused
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import dump_recipe, parse_recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.json_files import read_json, write_json
from pipelines.run_folder.location import RunLocation
from pipelines.scoring.recipe import ScoreRecipe
from pipelines.scoring.shards import FOLDER

IMAGES = "images.json"


def check_models(recipe: ScoreRecipe) -> None:
    """Raises UserError for a model that no worker could load."""
    for table in recipe.rewards.values():
        options = table.options
        for key, kind in options.models.items():
            model = getattr(options, key)
            try:
                check_model(model, MARKERS[kind])
                if isfile(join(model, MARKERS[kind])):
                    CHECKS[kind](Path(model))
            except ValueError as error:
                raise UserError(f"reward.{key} = {model!r}: {error}") from None


def check_folder(place: RunLocation, recipe: ScoreRecipe, rows: Sequence[ImageRow], resume: bool) -> None:
    """Raises UserError where another run is, or other files are."""
    if not resume:
        RunFolder.check_new(place.path, place.shown)
    if RunFolder.holds_run(place.path):
        check_same(RunFolder.open(place.path), recipe, rows)
    else:
        place.check_empty()


def open_folder(place: RunLocation, recipe: ScoreRecipe, rows: Sequence[ImageRow]) -> RunFolder:
    """The run folder, begun or taken up, with what was written there."""
    if RunFolder.holds_run(place.path):
        folder = RunFolder.open(place.path)
        folder.follow(dump_recipe(recipe))
        bring_shards(place)
    else:
        folder = RunFolder.create(place.path, dump_recipe(recipe))
    write_json(folder.path / IMAGES, _said(rows))
    return folder


def check_same(folder: RunFolder, recipe: ScoreRecipe, rows: Sequence[ImageRow]) -> None:
    """Raises UserError if what is scored, or how, is not what the run began with."""
    old = parse_recipe(tomllib.loads(folder.read_recipe()), str(folder.path), ScoreRecipe)
    if no := refused(differences(old, recipe), recipe):
        listed = "\n".join(f"  {path} = {new!r} (the run has {before!r})" for path, (before, new) in no.items())
        raise UserError(
            f"--resume: a run cannot change these keys on its way:\n{listed}\nGive the values that it has, or begin a new run"
        )
    said = _said(rows)
    if (began := read_json(folder.path / IMAGES, dict)) and began != said:
        raise UserError(
            f"--resume: data.images has other rows than the run began with ({said['rows']} now, {began['rows']} then): give the "
            "same set, or begin a new run"
        )


def _said(rows: Sequence[ImageRow]) -> dict[str, Any]:
    return {"rows": len(rows), "sha256": sha256_of(rows)}


def bring_shards(place: RunLocation) -> None:
    """What a run at a URL has written comes into its copy here."""
    if place.url is None:
        return
    for name in files.files(place.url):
        if name.startswith(f"{FOLDER}/"):
            path = place.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.read(f"{place.url}/{name}"))
