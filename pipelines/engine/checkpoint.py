"""Checkpoints: what they hold, where they lie, and how `--resume` finds the newest one that is whole.

A checkpoint is a folder (or a URL) with the policy's state, the adapters that work in flight needs, and the run's records up
to there, made real by a manifest that is written last (cluster/storage/documents.py). pipelines/engine/checkpointer.py makes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from cluster.storage import documents, files
from pipelines.data.prompts import PromptSet
from pipelines.recipe.changes import Changes, differences, refused
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import parse_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder import folder
from pipelines.run_folder.location import given_by_user, resolved

RECORDS = "records/"
RECIPE = "records/recipe.toml"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "deepspeed", "ray", "numpy")


@dataclass(frozen=True)
class Inputs:
    """The hashes of what a recipe names by path: the prompts to train on, the held-out ones, the LoRA to begin from."""

    prompts_sha256: str = ""
    heldout_sha256: str = ""
    init_adapter_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    adapters: sha256 by policy version; evaluated: versions whose evaluation is recorded; digest_since: the step after which
    the digest's chain began (0, or a resume on another number of ranks); changes: what resumes changed of the recipe, each
    {"step": after which, "changed": key path -> [old, new]}.
    """

    step: int
    digest: str
    digest_since: int
    images: int
    seconds: float
    quarantined: int
    adapters: dict[str, str]
    evaluated: list[int]
    ranks: int
    zero_stage: int
    seed: int
    recipe_sha256: str
    prompts_sha256: str
    heldout_sha256: str = ""
    init_adapter_sha256: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in PACKAGES})


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
        """The names of the policy's files."""
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

    Raises StorageError if the place cannot be read: that says nothing of its checkpoints.
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


def changes_since(found: Found, recipe: Recipe, inputs: Inputs) -> Changes:
    """What the recipe changes of the run that the checkpoint is of. Raises UserError for what a run cannot change on its way."""
    manifest, here = found.manifest, f"--resume {found.place}"
    old = parse_recipe(tomllib.loads(found.recipe_toml()), source=f"{found.place}/{RECIPE}")
    changes = differences(old, recipe)
    if no := refused(changes, recipe):
        listed = "\n".join(f"  {path} = {new!r} (the checkpoint has {before!r})" for path, (before, new) in no.items())
        raise UserError(
            f"{here}: a run cannot change these keys on its way:\n{listed}\nGive the values that it has, or begin a new run from "
            "its adapter with policy.init_adapter. docs/using_a_run.md lists what may change"
        )
    if manifest.prompts_sha256 != inputs.prompts_sha256:
        raise UserError(
            f"{here}: the prompt sets are not those of the run: data.train has other prompts than it began with"
        )
    if manifest.init_adapter_sha256 != inputs.init_adapter_sha256:
        raise UserError(
            f"{here}: policy.init_adapter is not the file that the run began with: its content is another one"
        )
    if recipe.loop.steps < manifest.step:
        raise UserError(
            f"{here}: loop.steps = {recipe.loop.steps}, but the checkpoint is of step {manifest.step}: raise loop.steps, or resume "
            "an earlier checkpoint"
        )
    if manifest.heldout_sha256 != inputs.heldout_sha256:
        before, after = manifest.heldout_sha256, inputs.heldout_sha256
        changes["data.heldout"] = (_named(old.data.heldout, before), _named(recipe.data.heldout, after))
    else:
        changes.pop("data.heldout", None)  # the same prompts from another place
    return changes


def sha256_of(prompts: PromptSet) -> str:
    """A hash of a prompt set; its repr stands for its content."""
    return hashlib.sha256(repr(prompts).encode()).hexdigest()


def _named(path: str | None, sha256: str) -> str:
    return f"{path} (sha256 {sha256[:12]})"


def _open(place: str) -> Manifest:
    content = documents.read_manifest(place)
    try:
        manifest = Manifest(**content)
    except TypeError as error:
        raise documents.DamagedError(f"{place}/{documents.MANIFEST} was written by another version: {error}") from error
    documents.check(place, content)
    return manifest
