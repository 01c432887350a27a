"""Before a run's first step: its inputs, where it writes, the checkpoint that it continues from, its folder."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.storage.files import folders
from pipelines.data.prompts import PromptOrder, PromptSet
from pipelines.engine.checkpoint import RECIPE, Found, named, newest, step_of
from pipelines.preflight import checks
from pipelines.recipe.arguments import AUTO
from pipelines.recipe.changes import Changes, differences, refused
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import dump_recipe, parse_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.events import RecipeChanged
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.location import RunLocation
from pipelines.training.heldout_plan import HeldoutPlan


@dataclass(frozen=True)
class Inputs:
    """The hashes of what a recipe names by path: the prompts to train on, the held-out ones, the LoRA to begin from."""

    prompts_sha256: str = ""
    heldout_sha256: str = ""
    init_adapter_sha256: str = ""


NO_INPUTS = Inputs()


def load_data(recipe: Recipe, executor: Literal["ray", "local"]) -> tuple[PromptOrder, HeldoutPlan, Inputs]:
    """The prompts in their order, the held-out ones, and the hashes of what the recipe names; all of it checked. Raises UserError."""
    checks.check_models(recipe)
    checks.check_start(recipe, executor)
    prompts, heldout_prompts, order = checks.prompts_of(recipe)
    heldout = HeldoutPlan(heldout_prompts, recipe.heldout, recipe.loop.steps)
    begin = checks.init_adapter(recipe.policy)
    return order, heldout, Inputs(sha256_of(prompts), sha256_of(heldout_prompts), begin.sha256 if begin else "")


def choose_checkpoint(resume: str | None, place: RunLocation, root: str) -> tuple[Found | None, list[str]]:
    """Where the run begins: the checkpoint (None: version 0), and what was wrong with newer ones. Raises UserError.

    Without --resume neither the folder nor the place of checkpoints may hold a run.
    """
    if resume is None:
        RunFolder.check_new(place.path, place.shown)
        if any(step_of(there) is not None for there in folders(root)):
            raise UserError(f"{root} holds checkpoints of a run: continue it with --resume, or give another place")
        return None, []
    if resume != AUTO:
        return named(resume), []
    found, problems = newest(root)
    if found is None and not RunFolder.holds_run(place.path):
        place.check_empty()
    return found, problems


def open_folder(path: Path, recipe: Recipe, found: Found | None, changes: Changes) -> RunFolder:
    """The run folder, begun if there is none yet. Its recipe.toml is what the run has from here on; earlier ones are kept."""
    if RunFolder.holds_run(path):
        folder = RunFolder.open(path)
    else:
        folder = RunFolder.create(path, found.recipe_toml() if found else dump_recipe(recipe))
    earlier = folder.follow(dump_recipe(recipe))
    if found and changes:
        folder.event(RecipeChanged(step=found.manifest.step, changed=changes, earlier=earlier))
    return folder


def changes_since(found: Found, recipe: Recipe, inputs: Inputs) -> Changes:
    """What the recipe changes of the run that the checkpoint is of. Raises UserError for what a run cannot change on its way."""
    manifest, was, here = found.manifest, Inputs(**found.manifest.inputs), f"--resume {found.place}"
    old = parse_recipe(tomllib.loads(found.recipe_toml()), source=f"{found.place}/{RECIPE}")
    changes = differences(old, recipe)
    if no := refused(changes, recipe):
        listed = "\n".join(f"  {path} = {new!r} (the checkpoint has {before!r})" for path, (before, new) in no.items())
        raise UserError(
            f"{here}: a run cannot change these keys on its way:\n{listed}\nGive the values that it has, or begin a new run from "
            "its adapter with policy.init_adapter. docs/using_a_run.md lists what may change"
        )
    if was.prompts_sha256 != inputs.prompts_sha256:
        raise UserError(
            f"{here}: the prompt sets are not those of the run: data.train has other prompts than it began with"
        )
    if was.init_adapter_sha256 != inputs.init_adapter_sha256:
        raise UserError(
            f"{here}: policy.init_adapter is not the file that the run began with: its content is another one"
        )
    if recipe.loop.steps < manifest.step:
        raise UserError(
            f"{here}: loop.steps = {recipe.loop.steps}, but the checkpoint is of step {manifest.step}: raise loop.steps, or resume "
            "an earlier checkpoint"
        )
    if was.heldout_sha256 != inputs.heldout_sha256:
        before, after = was.heldout_sha256, inputs.heldout_sha256
        changes["data.heldout"] = (_named(old.data.heldout, before), _named(recipe.data.heldout, after))
    else:
        changes.pop("data.heldout", None)  # the same prompts from another place
    return changes


def sha256_of(prompts: PromptSet) -> str:
    """A hash of a prompt set; its repr stands for its content."""
    return hashlib.sha256(repr(prompts).encode()).hexdigest()


def _named(path: str | None, sha256: str) -> str:
    return f"{path} (sha256 {sha256[:12]})"
