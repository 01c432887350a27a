"""Checkpoints: what they hold, where they lie, and how `--resume` finds the newest one that is whole.

A checkpoint is a folder (or a URL) with the files of what is trained and the run's records up to there, made real by a manifest
that is written last (cluster/storage/documents.py). pipelines/engine/checkpointer.py makes them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from cluster.storage import documents, files
from pipelines.engine.digest import FIRST
from pipelines.recipe.errors import UserError
from pipelines.run_folder import folder
from pipelines.run_folder.location import given_by_user, resolved

LAYOUT = 2  # of the manifest; 1 had the fields of the one program that there was beside those of any
RECORDS = "records/"
RECIPE = "records/recipe.toml"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "deepspeed", "ray", "numpy")


@dataclass(frozen=True)
class Core:
    """How far a run is, whatever it trains.

    digest_since: the step after which the digest's chain began; changes: what resumes changed of the recipe, each
    {"step": after which, "changed": key path -> [old, new]}.
    """

    step: int = 0
    digest: str = FIRST
    digest_since: int = 0
    changes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Identity:
    """Which run a checkpoint is of. inputs: the hash of each thing that the recipe names by path."""

    recipe_toml: str
    recipe_sha256: str
    inputs: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's manifest: the fields of `Core`, the run that it is of, and `work`, the program's own state."""

    step: int
    digest: str
    digest_since: int
    changes: list[dict[str, Any]]
    recipe_sha256: str
    inputs: dict[str, str]
    work: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in PACKAGES})
    layout: int = LAYOUT


@dataclass(frozen=True)
class Found:
    """A whole checkpoint."""

    place: str
    manifest: Manifest

    def records(self) -> dict[str, bytes]:
        """The run's records up to the checkpoint, by file name."""
        names = [name for name in self.manifest.files if name.startswith(RECORDS) and name != RECIPE]
        return {name.removeprefix(RECORDS): documents.read_bytes(self.place, name) for name in names}

    def recipe_toml(self) -> str:
        """The recipe that the run had when this was made."""
        return documents.read_bytes(self.place, RECIPE).decode()

    def state_files(self) -> list[str]:
        """The names of the files of what is trained."""
        return [name for name in self.manifest.files if not name.startswith(RECORDS)]


def place_of(root: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return f"{root}/step-{step:06d}"


def step_of(place: str) -> int | None:
    """The step of a checkpoint's folder, None for another folder."""
    match = re.fullmatch(r"step-(\d{6,})", place.rpartition("/")[2])
    return int(match[1]) if match else None


def newest(root: str) -> tuple[Found | None, list[str]]:
    """The newest checkpoint that is whole, every file with its hash; and what was wrong with newer ones, which are passed over.

    Raises StorageError if the place cannot be read: that says nothing of its checkpoints; and UserError for another layout.
    """
    problems: list[str] = []
    places = {step: place for place in files.folders(root) if (step := step_of(place)) is not None}
    for step in sorted(places, reverse=True):
        try:
            return Found(places[step], _open(places[step])), problems
        except documents.DamagedError as error:
            problems.append(str(error))
    return None, problems


def named(place: str) -> Found:
    """The checkpoint at a path or URL. Raises UserError if it is not whole, or is none."""
    meant = resolved(place, "--resume")
    meant = meant if "://" in meant else os.path.abspath(meant)
    with given_by_user(place, "--resume"):
        whole, of_run = documents.has_manifest(meant), files.exists(f"{meant}/{folder.RECIPE}")
    if of_run and not whole:
        raise UserError(f"--resume {place} is a run, not a checkpoint: to go on with it, give --out {place} --resume")
    try:
        if not whole:
            raise documents.DamagedError(
                f"there is no {documents.MANIFEST}, so that it is no checkpoint, or not a whole one"
            )
        return Found(meant, _open(meant))
    except documents.DamagedError as error:
        raise UserError(f"--resume {place}: {error}. Give a folder such as checkpoints/step-000050") from None


def read_manifest(place: str) -> Manifest:
    """The manifest of the checkpoint at a place. Raises DamagedError, and UserError for a layout that is not this one."""
    content = documents.read_manifest(place)
    if "step" in content and content.get("layout", 1) != LAYOUT:
        raise UserError(
            f"{place} is a checkpoint of layout {content.get('layout', 1)}, and this version reads layout {LAYOUT}: go on with the "
            f'version that made it, or begin a new run from its adapter, with policy.init_adapter = "{place}/adapter"'
        )
    try:
        return Manifest(**content)
    except TypeError as error:
        raise documents.DamagedError(f"{place}/{documents.MANIFEST} was written by another version: {error}") from error


def _open(place: str) -> Manifest:
    """Of a checkpoint whose files are all whole. Raises as `read_manifest`."""
    manifest = read_manifest(place)
    documents.check(place, {"files": manifest.files})
    return manifest
