"""The command of a RayJob: whether it starts a run, with which recipe, and whether a new cluster could go on with that run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pipelines.preflight.packages import ROOT
from pipelines.recipe.arguments import parse_train
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.location import resolved

START = ["python", "-m", "pipelines.train"]
IN_IMAGE = ("actors", "bench", "cluster", "pipelines", "recipes", "tests", "toy")  # what the Dockerfile copies


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"spec.entrypoint: {message}")


def check_entrypoint(spec: dict[str, Any], given: Path | None) -> tuple[Recipe | None, list[str]]:
    """The recipe that the job runs, None if it is not known, and what is wrong. `given`: the recipe that it should be."""
    if "entrypoint" not in spec:
        return None, [f"spec.entrypoint: missing; give {' '.join(START)} RECIPE --out URL --resume"]
    try:
        options = parse_command(spec["entrypoint"])
        recipe = load_recipe(_in_repository(options.recipe), options.set)
    except UserError as error:
        return None, [str(error)]
    problems = []
    if given and given.resolve() != (ROOT / options.recipe).resolve():
        problems.append(f"spec.entrypoint runs {options.recipe}, not {given}: name the same recipe in both places")
    if options.executor != "ray":
        problems.append(
            f"spec.entrypoint: --executor {options.executor} would leave all workers in the head: take it out"
        )
    return recipe, [*problems, *_places(options, recipe), *_again(options, spec)]


def parse_command(entrypoint: str) -> argparse.Namespace:
    """The options of `python -m pipelines.train`, as that reads them. Raises UserError."""
    try:
        words = shlex.split(entrypoint)
    except ValueError as error:
        raise UserError(f"spec.entrypoint cannot be read as a command: {error}") from error
    if words[: len(START)] != START:
        shown = " ".join(words[: len(START)])
        raise UserError(f"spec.entrypoint begins with {shown!r}: it must begin with {' '.join(START)!r}")
    return parse_train(words[len(START) :], Parser)


def _in_repository(recipe: Path) -> Path:
    """The file that the image holds under this path. Raises UserError."""
    if recipe.is_absolute() or not _in_image(str(recipe)):
        folders = ", ".join(IN_IMAGE)
        raise UserError(
            f"spec.entrypoint: the image has no {recipe}: name a recipe below one of its folders, {folders}"
        )
    return ROOT / recipe


def _in_image(path: str) -> bool:
    return Path(path).parts[:1] in {(folder,) for folder in IN_IMAGE}


def _places(options: argparse.Namespace, recipe: Recipe) -> Iterator[str]:
    """What would lie on a pod's disk and be lost with the pod, or would not be found there."""
    try:
        out = "is missing" if options.out is None else resolved(options.out, "--out")
        if not _is_url(out):
            yield f"spec.entrypoint: --out {out}: a pod's disk goes with the pod; give a URL such as s3://bucket/run"
    except UserError as error:
        yield f"spec.entrypoint: {error}"
    if recipe.loop.checkpoints and not _is_url(recipe.loop.checkpoints):
        yield (
            f"loop.checkpoints = {recipe.loop.checkpoints!r}: a pod's disk goes with the pod; "
            "give a URL, or leave it out: checkpoints then go to --out"
        )
    for key, path in (("data.train", recipe.data.train), ("data.heldout", recipe.data.heldout)):
        if path and not (_is_url(path) or Path(path).is_absolute() or _in_image(path)):
            yield (
                f"{key} = {path!r}: the image does not hold it; give a URL or a path on a volume, "
                f"such as --set {key}=s3://bucket/{Path(path).name}"
            )


def _again(options: argparse.Namespace, spec: dict[str, Any]) -> Iterator[str]:
    if spec.get("backoffLimit", 0) > 0 and options.resume is None:
        yield "spec.entrypoint: without --resume a retry (spec.backoffLimit) would refuse the run folder that is there: add --resume"


def _is_url(place: str) -> bool:
    return "://" in place
