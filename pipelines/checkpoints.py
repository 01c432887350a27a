"""Checkpoints: what they hold, where they lie, and how `--resume` finds the newest one that is whole.

A checkpoint is a folder (or a URL) with the policy's state, the adapters that work in flight needs, and the run's records up
to there, made real by a manifest that is written last (cluster/storage.py). pipelines/checkpointer.py makes them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from cluster import storage
from pipelines.config import Recipe, UserError, dump_recipe
from pipelines.prompts import PromptSet

RECORDS = "records/"
RECIPE = "records/recipe.toml"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "deepspeed", "ray", "numpy")
FREE_TABLES = {"cluster", "samples", "monitor"}
FREE_KEYS = {
    *("name", "notes", "size", "min", "max", "num_cpus", "num_gpus", "resources", "labels"),
    *("checkpoint_every", "keep_checkpoints", "keep_best", "checkpoints"),
    *("retries", "lost_retries", "max_failures_in_row", "max_groups_in_flight", "max_bytes_in_flight"),
}
ANEW_KEYS = {"ranks", "zero_stage"}  # these may change as well, but sums are then taken in another order


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    adapters: sha256 by policy version; evaluated: versions whose evaluation is recorded; digest_since: the step after which
    the digest's chain began (0, or a resume on another number of ranks).
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
        return {name.removeprefix(RECORDS): storage.read_bytes(self.place, name) for name in names}

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
    places = {step: place for place in storage.folders(root) if (step := step_of(place)) is not None}
    for step in sorted(places, reverse=True):
        try:
            return Found(places[step], _open(places[step])), problems
        except storage.DamagedError as error:
            problems.append(str(error))
    return None, problems


def named(place: str) -> Found:
    """The checkpoint at a path or URL. Raises UserError if it is not whole."""
    place = place.rstrip("/") if "://" in place else str(Path(place).absolute())
    try:
        return Found(place, _open(place))
    except storage.DamagedError as error:
        raise UserError(f"--resume {place}: {error}. Give a folder such as checkpoints/step-000050") from None


def check_fits(found: Found, recipe: Recipe, prompts_sha256: str) -> None:
    """Raises UserError if the recipe or the prompts would not continue the run that the checkpoint is of."""
    manifest = found.manifest
    if manifest.recipe_sha256 != recipe_sha256(recipe):
        old = storage.read_bytes(found.place, RECIPE).decode().splitlines()
        changed = [line for line in dump_recipe(recipe).splitlines() if line not in old]
        raise UserError(
            "--resume continues a run with its own recipe; pool sizes, resources, limits, names, policy.ranks and "
            "policy.zero_stage may differ. Changed here:\n  " + "\n  ".join(changed or ["(keys were removed)"])
        )
    if manifest.prompts_sha256 != prompts_sha256:
        raise UserError("--resume: the prompt sets are not those of the run. Give it the files that it began with")


def recipe_sha256(recipe: Recipe) -> str:
    """A hash of all that decides the result, but for the number of ranks and the ZeRO stage."""
    kept = {
        name: {key: value for key, value in table.items() if key not in FREE_KEYS | ANEW_KEYS}
        for name, table in recipe.model_dump().items()
        if name not in FREE_TABLES
    }
    return hashlib.sha256(repr(kept).encode()).hexdigest()


def sha256_of_prompts(*sets: PromptSet) -> str:
    """A hash of prompt sets, in their order; their repr stands for their content."""
    return hashlib.sha256(repr(sets).encode()).hexdigest()


def _open(place: str) -> Manifest:
    content = storage.read_manifest(place)
    try:
        manifest = Manifest(**content)
    except TypeError as error:
        raise storage.DamagedError(f"{place}/{storage.MANIFEST} was written by another version: {error}") from error
    storage.check(place, content)
    return manifest
