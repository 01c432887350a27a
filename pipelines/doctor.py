"""Checks a recipe before it costs anything: does it load, does it fit its GPUs, and which problems are to be expected.

    python -m pipelines.doctor RECIPE [--gpu-memory 80] [--set key=value ...]
    python -m pipelines.doctor RAY_JOB [RECIPE] [--gpu-memory 80]

Of a program that trains nothing (score, evaluate, caption) it finds the mistakes that the program itself would find before its
workers start, and says which models they read; that memory suffices is looked at for `train` alone.

With a RayJob of KubeRay it checks that as well (pipelines/submitting/manifest/check.py), and the recipe is taken as the
job's command changes it. Needs neither a GPU nor torch, nor the models' files if their hub names are known
(pipelines/preflight/memory/models.py). Exit codes: 0 it fits, 1 it cannot fit, 2 a user's mistake, as `pipelines.train`
tells it, whether it fits or not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from actors.mistake import Mistake
from cluster import speaking
from pipelines.planning.given import Given, given_by, load_any
from pipelines.planning.sureness import split_warnings
from pipelines.preflight import checks
from pipelines.preflight.memory.cards import USABLE
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import models_to_estimate
from pipelines.preflight.memory_report import report_memory
from pipelines.preflight.verdicts import gpus_not_asked_for, obstacles, warnings
from pipelines.recipe.arguments import path_of
from pipelines.recipe.errors import UserError
from pipelines.recipe.programs.mapping import MapRecipe
from pipelines.submitting.manifest.check import SUFFIXES, check_manifest, warnings_of_job

UNASKED = (
    "whether the weights are those of their models was not asked, since torch and its libraries are not installed here: workers"
    " ask it again before they load"
)


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = parse_arguments(arguments)
    console = speaking.console()
    mistakes: list[str] = []
    try:
        job = check_manifest(options.manifest, options.recipe) if options.manifest else None
        recipe = job.recipe if job else load_any(options.recipe, options.set)
        mistakes += job.problems if job else []
        if recipe is None:
            return tell_mistakes(mistakes)
        if isinstance(recipe, MapRecipe):
            return tell_given(given_by(recipe), console)
        if not checks.check_models(recipe):
            speaking.say(console, UNASKED, "warning", "yellow")
        models = models_to_estimate(recipe.policy, recipe.rewards)
        tables = recipe.policy, recipe.rollout, recipe.rewards
        found = [*obstacles(*tables, models), *gpus_not_asked_for(*tables)]
    except (UserError, Mistake) as error:  # Mistake: a config without a field that is asked for
        return tell_mistakes([*mistakes, str(error)])
    if found:
        return tell_mistakes([*mistakes, *found])
    fits = report_memory(recipe, models, options.gpu_memory, console)
    try:
        prompts = () if job else checks.sample_prompts(recipe)  # a job's lie where the cluster reads them
    except UserError as error:
        prompts, mistakes = (), [str(error)]
    in_flight = estimate(recipe, models).bytes_in_flight
    own = [*warnings(recipe, models, prompts), *split_warnings(recipe, models, options.gpu_memory * USABLE)]
    for text in [*own, *(warnings_of_job(job, recipe, in_flight) if job else [])]:
        speaking.say(console, text, "warning", "yellow")
    return tell_mistakes(mistakes) if mistakes else 0 if fits else 1


def tell_given(given: Given, console: Console) -> int:
    """Prints what a program that trains nothing would do and read, since nothing is wrong with it; returns the exit code."""
    speaking.say(console, f"{given.program}: {given.said}")
    for pool, models in given.read.items():
        for named in models:
            there = "" if os.path.isdir(named.model) else ", of the hub: `python -m pipelines.prefetch` downloads it"
            speaking.say(console, f"{pool} reads {named.model}{there}")
    speaking.say(console, "no mistake was found. How much memory workers need is estimated of `train` alone")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.doctor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "files",
        type=path_of,
        nargs="+",
        metavar="FILE",
        help="a recipe, such as recipes/sd35m_8gpu.toml; a RayJob, such as ray_job.yaml; or both",
    )
    parser.add_argument("--gpu-memory", type=float, default=80, metavar="GIB", help="of a card, by its name (80)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    return parser


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. A mistake in it exits with code 2, as argparse does."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not 0 < options.gpu_memory < float("inf"):
        parser.error(f"--gpu-memory {options.gpu_memory:g}: give the GiB of a card, such as 80")
    manifests = [file for file in options.files if file.suffix in SUFFIXES]
    recipes = [file for file in options.files if file.suffix not in SUFFIXES]
    if len(manifests) > 1 or len(recipes) > 1:
        parser.error("give one recipe, one RayJob (.yaml or .yml), or one of each")
    if manifests and options.set:
        parser.error(f"--set: the command in {manifests[0]} says what it changes in the recipe")
    options.manifest, options.recipe = next(iter(manifests), None), next(iter(recipes), None)
    return options


def tell_mistakes(found: Sequence[str]) -> int:
    """Prints what the user must mend first; returns the exit code of that."""
    for text in found:
        speaking.fail("error", text, 2)
    return 2


if __name__ == "__main__":
    sys.exit(main())
