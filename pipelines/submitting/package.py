"""What a job takes to a cluster: the repository, less what .gitignore and .rayignore name; listed, checked and packed."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.runtime_env.packaging import _dir_travel

from actors.paths import located, portable
from pipelines.preflight.checks import named_models, own_families
from pipelines.preflight.packages import ROOT
from pipelines.recipe.errors import UserError
from pipelines.recipe.keys import inputs
from pipelines.recipe.tables import Data
from pipelines.recipe.training import Recipe
from pipelines.run_folder.location import resolved

LIMIT_BYTES = 100 * 2**20  # Ray would take five times as much, through the memory of the head
NAMED = 5
INSTALLED = {"site-packages", "dist-packages"}


def check_out(out: str | None) -> str:
    """The run folder's place as it is meant. Raises UserError unless it outlives a job, whose working folder Ray removes."""
    meant = None if out is None else resolved(out, "--out")
    if meant is None or not _is_elsewhere(meant):
        given = "no --out" if out is None else f"--out {out}"
        raise UserError(
            f"{given}: a job works in a folder that Ray removes, and the run would go with it. Give an absolute path "
            "that outlives the job, such as /data/runs/one on a shared disk, or a URL such as s3://bucket/runs/one"
        )
    return meant


def in_job() -> bool:
    """Whether this process is the driver of a job."""
    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ


def check_out_of_job(out: str | None) -> None:
    """What `check_out` raises, in a job."""
    if in_job():
        check_out(out)


def list_files(root: Path = ROOT) -> dict[str, int]:
    """What a job would take along: path from the root -> bytes. The rules are Ray's own."""
    found = {}

    def note(path: Path) -> None:
        if path.is_file():
            found[path.relative_to(root).as_posix()] = path.stat().st_size

    quiet = logging.getLogger(f"{__name__}.ray")
    quiet.setLevel(logging.WARNING)
    _dir_travel(root, [], note, include_gitignore=True, logger=quiet)
    return found


def check_size(files: Mapping[str, int], root: Path = ROOT) -> None:
    """Raises UserError if the files are too many bytes, with the largest and what to do about them."""
    total = sum(files.values())
    if total <= LIMIT_BYTES:
        return
    largest = sorted(files, key=lambda name: -files[name])[:NAMED]
    listed = "\n".join(f"  {mebibytes(files[name])}  {name}" for name in largest)
    raise UserError(
        f"a job would take {mebibytes(total)} of {root} along, and may take {mebibytes(LIMIT_BYTES)}. The largest files:\n"
        f"{listed}\nName what the job does not need in .rayignore, as in .gitignore. Put data and models that it needs where "
        "all nodes find them, and give the recipe that path or URL"
    )


def name_in(path: Path, files: Mapping[str, int], root: Path = ROOT) -> str:
    """A recipe's path from the root. Raises UserError if the job would not take it along."""
    name = os.path.relpath(located(str(path)), root)
    if name not in files:
        why = "lies outside of" if name.startswith("..") else "is left out by .gitignore or .rayignore of"
        raise UserError(
            f"the recipe {path} {why} {root}, so that the job would not find it: move or copy it to recipes/"
        )
    return name


def check_paths(recipe: Recipe, files: Mapping[str, int], root: Path = ROOT) -> None:
    """Raises UserError for what the recipe names by a relative path and the job would not find there, or would lose."""
    for key, place, mark in inputs(recipe):
        place = portable(place)
        if place and not _is_elsewhere(place) and not _is_shipped(place, files) and _is_local(place, mark.hub, root):
            there = os.path.lexists(root / place)
            why = (
                "it is outside of the root, or left out by .gitignore or .rayignore"
                if there
                else "there is no such file"
            )
            raise UserError(
                f"{key} = {place!r} would not reach the cluster from {root}: {why}. Give a path inside that is taken along, "
                "an absolute path that exists on the nodes, or a URL"
            )
    if recipe.loop.checkpoints and not _is_elsewhere(recipe.loop.checkpoints):
        raise UserError(
            f"loop.checkpoints = {recipe.loop.checkpoints!r} would lie in the job's working folder, which Ray removes: "
            "give an absolute path or a URL, or leave it out for a folder in --out"
        )
    own = [("heldout.checker", recipe.heldout.checker)]
    own += [(key, code) for key, *codes in own_families(named_models(recipe.policy, recipe.rewards)) for code in codes]
    own += [(f"{pool}.type", reward.type) for pool, reward in recipe.rewards.items()]
    if ":" in recipe.objective.type:
        own += [("objective.type", recipe.objective.type), ("objective.type", recipe.objective.objective)]
    for key, name in own:
        if name and ":" in name:
            _check_code(key, name, files, root)


def takes_prompts(data: Data, files: Mapping[str, int]) -> bool:
    """Whether the job takes its prompt files along, so that they can be read here as well."""
    return all(_is_shipped(place, files) for place in (data.train, data.heldout) if place)


def pack(files: Mapping[str, int], package: Path, root: Path = ROOT) -> None:
    """Writes the files to a zip, which Ray unpacks into the job's working folder."""
    with ZipFile(package, "w", ZIP_DEFLATED, strict_timestamps=False) as archive:
        for name in sorted(files):
            archive.write(root / name, name)


def mebibytes(count: int) -> str:
    """A number of bytes to be read by people."""
    return f"{count / 2**20:.1f} MiB"


def _is_elsewhere(place: str) -> bool:
    return "://" in place or os.path.isabs(place)


def _is_shipped(place: str, files: Mapping[str, int]) -> bool:
    name = os.path.normpath(place)
    return any(file == name or file.startswith(f"{name}/") for file in files)


def _is_local(place: str, hub: bool, root: Path) -> bool:
    """Whether it means a file: a model may also be a hub's name, owner/name, where no folder owner stands."""
    return not (hub and place.count("/") == 1 and not (root / place).parent.is_dir())


def _check_code(key: str, name: str, files: Mapping[str, int], root: Path) -> None:
    """Raises UserError for a "module:name" of the user's own that the job would not find. What is installed is the nodes' affair."""
    module = name.partition(":")[0]
    path = module.replace(".", "/")
    files_of = (f"{path}.py", f"{path}/__init__.py")
    here = [file for file in files_of if (root / file).is_file()]
    if here and here[0] not in files:
        raise UserError(
            f"{key} = {name!r} would not reach the cluster: {here[0]} is left out by .gitignore or .rayignore; move it to a package "
            "that is taken along, such as toy"
        )
    origin = None if here else _origin(module)
    if origin and not INSTALLED & set(origin.parts) and origin not in [ROOT / file for file in files_of]:
        where = f"lies outside of {root}; move or copy its package there, or install it on the nodes"
        if origin.is_relative_to(root):
            where = f"is not where a job looks for it, which is {root / path}.py; name it from {root}"
        raise UserError(f"{key} = {name!r} would not reach the cluster: {origin} {where}")


def _origin(module: str) -> Path | None:
    """The file of a module, if this machine has it."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found and found.origin and found.has_location else None
