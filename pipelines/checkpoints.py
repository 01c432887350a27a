"""Checkpoints of a run: written aside, made real by a manifest that is written last, found again by `--resume`.

A checkpoint holds the policy's own files, the adapters of every version that work in flight may still need, and the manifest:
step, digest, counters, evaluations finished, hashes of all files and the recipe.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.config import Recipe, UserError, dump_recipe
from pipelines.run_folder import RunFolder, read_json, write_json
from pipelines.step_log import StepLog

MANIFEST = "manifest.json"
FOLDERS = "step-??????"
KEPT = 2
PACKAGES = ("torch", "diffusers", "transformers", "peft", "ray", "numpy")
FREE_TABLES = {"cluster"}
FREE_KEYS = {"size", "num_cpus", "num_gpus", "resources", "name", "notes", "checkpoint_every"}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself. `adapters`: sha256 by policy version; `evaluated`: versions whose evaluation is recorded."""

    step: int
    digest: str
    images: int
    seconds: float
    adapters: dict[str, str]
    evaluated: list[int]
    recipe_sha256: str
    files: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in PACKAGES})


def recipe_sha256(recipe: Recipe) -> str:
    """A hash of all that decides the result: pool sizes, resources, names and the cluster's settings are left out."""
    tables = recipe.model_dump()
    kept = {
        name: {key: value for key, value in table.items() if key not in FREE_KEYS}
        for name, table in tables.items()
        if name not in FREE_TABLES
    }
    return hashlib.sha256(repr(kept).encode()).hexdigest()


class Checkpointer:
    """Writes the checkpoints of a run, one at a time: `begin`, then the policy saves, then `finish`."""

    def __init__(self, recipe: Recipe, folder: RunFolder, saved_step: int) -> None:
        self.recipe, self.folder, self.saved_step = recipe, folder, saved_step
        self._writing: Manifest | None = None

    @property
    def saving(self) -> bool:
        """A checkpoint is being written."""
        return self._writing is not None

    def due(self, step: int) -> bool:
        """Whether a checkpoint follows this step: every so many, and the last; not while one is being written."""
        return not self.saving and (step % self.recipe.loop.checkpoint_every == 0 or step == self.recipe.loop.steps)

    def begin(self, step: int, log: StepLog, adapters: dict[int, tuple[str, Any]], evaluated: list[int]) -> tuple:
        """Makes the place; returns the arguments of the policy's `save`: the place and the handles of the adapters."""
        shas = {str(version): sha256 for version, (sha256, _) in adapters.items()}
        self._writing = Manifest(
            step, log.digest, log.images, log.seconds(), shas, list(evaluated), recipe_sha256(self.recipe)
        )
        partial = self._partial(step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return (str(partial), *(handle for _, handle in adapters.values()))

    def finish(self, files: dict[str, str]) -> None:
        """The policy's files are written, with these hashes: the manifest makes them a checkpoint, and older ones go."""
        assert self._writing is not None
        manifest = replace(self._writing, files=files)
        partial = self._partial(manifest.step)
        write_json(partial / MANIFEST, asdict(manifest))
        folder = partial.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        for old in sorted(folder.parent.glob(FOLDERS))[:-KEPT]:
            shutil.rmtree(old)
        self._writing, self.saved_step = None, manifest.step
        self.folder.event("checkpoint", step=manifest.step, path=f"checkpoints/{folder.name}")

    def give_up(self, message: str) -> None:
        """The policy could not write: what there is of it is removed, older checkpoints stay."""
        assert self._writing is not None
        shutil.rmtree(self._partial(self._writing.step), ignore_errors=True)
        self.folder.event("checkpoint_failed", step=self._writing.step, message=message)
        self._writing = None

    def _partial(self, step: int) -> Path:
        return self.folder.path.absolute() / "checkpoints" / f"step-{step:06d}.partial"


def newest(run: Path) -> tuple[Path, Manifest] | None:
    """The newest checkpoint whose files all have the hashes of its manifest, or None."""
    for folder in sorted((run / "checkpoints").glob(FOLDERS), reverse=True):
        content = read_json(folder / MANIFEST)
        if content and all(_has_hash(folder / name, sha256) for name, sha256 in content["files"].items()):
            return folder, Manifest(**content)
    return None


def check_recipe(manifest: Manifest, recipe: Recipe, stored_recipe: str) -> None:
    """Raises UserError if the recipe would not continue the run that the checkpoint is of."""
    if manifest.recipe_sha256 == recipe_sha256(recipe):
        return
    old, new = stored_recipe.splitlines(), dump_recipe(recipe).splitlines()
    changed = [line for line in new if line not in old]
    raise UserError(
        "--resume continues a run with its own recipe, only pool sizes, resources and names may differ; changed here:\n  "
        + "\n  ".join(changed or ["(keys were removed)"])
    )


def _has_hash(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
