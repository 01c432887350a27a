"""What a run has trained, for programs that use it: a checkpoint's adapter on this disk, and what it came of."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from actors.diffusion.adapter_file import WEIGHTS
from actors.paths import located
from cluster.storage import documents, files
from cluster.storage.documents import DamagedError, Storage
from pipelines.engine.checkpoint import RECIPE, Manifest, place_of, read_manifest, step_of
from pipelines.evaluation.comparison import best
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import parse_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import HELDOUT
from pipelines.run_folder.folder import RECIPE as RUN_RECIPE
from pipelines.run_folder.json_files import checked_toml
from pipelines.run_folder.location import CHECKPOINTS, check_writable, given_by_user, resolved
from pipelines.run_folder.records import HeldoutRecord, read_records

ADAPTER = f"adapter/{WEIGHTS}"
LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Trained:
    """A checkpoint: its place, its adapter as a file here, the recipe of its run."""

    place: str
    manifest: Manifest
    adapter: Path
    recipe: Recipe
    recipe_toml: str

    @property
    def base(self) -> str:
        """The model that was trained: a folder or a hub name."""
        return located(self.recipe.policy.model)


def absolute(place: str) -> str:
    """A run's path or URL as the user meant it, from the current folder or else from the repository's root. Raises UserError."""
    found = resolved(located(place), "RUN")
    return found if "://" in found else str(Path(found).absolute())


def check_free(out: Path) -> None:
    """Raises UserError unless `--out` is a new or an empty folder that can be written."""
    if os.path.lexists(out) and not (os.path.isdir(out) and not any(out.iterdir())):
        raise UserError(f"--out {out} is there already and is no empty folder: give another one")
    check_writable(resolved(str(out), "--out"), "--out")


def is_trained(place: str) -> bool:
    """Whether a run or a checkpoint lies at a path or URL. Raises UserError if that cannot be known."""
    with given_by_user(place, "RUN"):
        return documents.has_manifest(place) or files.exists(f"{place}/{RUN_RECIPE}")


def open_trained(place: str, which: str, folder: Path) -> Trained:
    """The checkpoint at a path or URL or, of a run there, the `which`: last, best or a step. `folder` takes the adapter.

    Raises UserError if there is none, or if it is damaged.
    """
    with given_by_user(place, "RUN"):
        chosen = place if documents.has_manifest(place) else _of_run(place, which, folder)
        try:
            manifest = read_manifest(chosen)
            _, files = Storage().read(chosen, [RECIPE, ADAPTER])
        except (DamagedError, FileNotFoundError, KeyError) as error:
            raise UserError(f"{chosen} is no whole checkpoint: {error}. Name another one with --checkpoint") from error
    recipe_toml = files[RECIPE].tobytes().decode()
    adapter = folder / WEIGHTS
    adapter.write_bytes(files[ADAPTER].tobytes())
    recipe = parse_recipe(tomllib.loads(recipe_toml), source=f"{chosen}/{RECIPE}")
    return Trained(chosen, manifest, adapter, recipe, recipe_toml)


def _of_run(place: str, which: str, folder: Path) -> str:
    """The place of a run's checkpoint."""
    if not files.exists(f"{place}/{RUN_RECIPE}"):
        raise UserError(
            f"{place} holds neither a run nor a checkpoint: give a folder or URL that --out named, or one of a checkpoint"
        )
    text = checked_toml(files.read(f"{place}/{RUN_RECIPE}"), f"{place}/{RUN_RECIPE}")
    recipe = parse_recipe(tomllib.loads(text), source=f"{place}/{RUN_RECIPE}")
    root = recipe.loop.checkpoints.rstrip("/") or f"{place}/{CHECKPOINTS.rstrip('/')}"
    steps = {
        step for there in files.folders(root) if (step := step_of(there)) is not None and documents.has_manifest(there)
    }
    if not steps:
        raise UserError(f"{place} has no whole checkpoint at {root}: let the run go on to its first one")
    if which == LAST:
        return place_of(root, max(steps))
    if which == BEST:
        (folder / HELDOUT).write_bytes(files.read(f"{place}/{HELDOUT}"))
        records = read_records(folder / HELDOUT, HeldoutRecord)
        scale = recipe.heldout.guidance_scales[0]
        plain = [each for each in records if each.step in steps and each.guidance == scale]
        if (found := best(plain)) is None:
            raise UserError(
                f"--checkpoint best: no checkpoint of {place} was evaluated; name a step of {sorted(steps)}, or last"
            )
        return place_of(root, found.step)
    if not which.isdigit() or int(which) not in steps:
        raise UserError(
            f"--checkpoint {which}: {place} has checkpoints of the steps {sorted(steps)}; give one of them, best or last"
        )
    return place_of(root, int(which))
