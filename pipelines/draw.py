"""Draws pictures of prompts, from a model or from what a run has trained beside its base, by the sampler of the rollout workers.

    python -m pipelines.draw MODEL_OR_RUN "a prompt" ... [--out DIR] [--count N] [--seed N] [--guidance G] [--steps N] [--size HxW]

A run's folder, its URL, or one of its checkpoints; or a model's folder or hub name. Every picture has its seed in its name; DIR/grid.png
shows all of them. Exit codes: 0 done, 2 a user's mistake, 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import Progress

from actors.models.path import PIPELINE_MARKER, check_model
from actors.paths import located
from actors.process import Process, prepare
from cluster import speaking
from cluster.storage.files import is_text
from pipelines.recipe import arguments
from pipelines.recipe.errors import UserError
from pipelines.reporting.drawings import Sheet, slug, write
from pipelines.running.trained import LAST, Trained, absolute, check_free, is_trained, open_trained

if TYPE_CHECKING:
    from actors.rollout.painter import Drawing, Painter

AT_ONCE = 4  # images in a batch
SEQUENCE_LENGTH = 256  # tokens of a caption that a model without a recipe reads


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="echoray-") as folder:
        return draw(options, Path(folder), speaking.console())


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.draw", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "model", metavar="MODEL_OR_RUN", help="a run (folder or URL), a checkpoint, a model's folder or hub name"
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw, in quotes")
    parser.add_argument(
        "--out", type=arguments.path_of, metavar="DIR", help="a new or empty folder (default: drawings/<name>-<time>)"
    )
    parser.add_argument("--count", type=arguments.count, default=4, metavar="N", help="pictures of each prompt (4)")
    parser.add_argument(
        "--seed", type=arguments.seed, default=0, metavar="N", help="of the first picture; the next have N+1, ... (0)"
    )
    parser.add_argument(
        "--guidance",
        type=arguments.scale,
        metavar="G",
        help="guidance scale (default: that of the run's evaluations, or the model's)",
    )
    parser.add_argument(
        "--steps",
        type=arguments.count,
        metavar="N",
        help="sampling steps (default: those of the run's evaluations, or the model's)",
    )
    parser.add_argument(
        "--size",
        type=arguments.size_of,
        metavar="HxW",
        help="pixels, such as 512x768 (default: the run's, or the model's)",
    )
    parser.add_argument(
        "--checkpoint", default=LAST, metavar="WHICH", help="of a run: last, best (held out), or a step (last)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(auto: a GPU if there is one)"
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="(auto: bfloat16 on a GPU)"
    )
    parser.add_argument(
        "--max-sequence-length",
        type=arguments.length,
        metavar="N",
        help="tokens of a prompt that are read (default: the run's, or 256)",
    )
    return parser


def draw(options: argparse.Namespace, folder: Path, console: Console) -> int:
    """Draws everything and writes it. Raises UserError or Mistake."""
    place = absolute(options.model)
    trained = open_trained(place, options.checkpoint, folder) if is_trained(place) else None
    name = (trained.recipe.run.name or Path(options.model).name) if trained else Path(options.model).name
    out = options.out or Path("drawings", f"{slug(name)}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_free(out)
    if not all(prompt.strip() for prompt in options.prompts):
        raise UserError("an empty prompt: say what to draw")
    if unreadable := [prompt for prompt in options.prompts if not is_text(prompt)]:
        raise UserError(f"the prompt {unreadable[0]!r} is not text in UTF-8: set the terminal to UTF-8")
    painter = load(trained, options)
    drawing = way(painter, trained, options)
    with Progress(console=console, transient=True) as progress:
        rows = list(sheets(painter, trained, drawing, options, progress))
    write(out, rows, len(options.prompts))
    speaking.say(console, f"{out}/grid.png  {sum(len(row[2]) for row in rows)} pictures")
    return 0


def load(trained: Trained | None, options: argparse.Namespace) -> Painter:
    """The model, in this process. Raises UserError if there is none."""
    model = trained.base if trained else located(options.model)
    try:
        check_model(model, PIPELINE_MARKER)
    except ValueError as error:
        raise UserError(
            f"{options.model!r} holds neither a run nor a model: {error}" if not trained else str(error)
        ) from None
    run = trained.recipe.run if trained else None
    prepare(Process(run.threads, deterministic=run.deterministic) if run else Process())
    from actors.rollout.painter import Painter

    length = options.max_sequence_length
    if length is None:
        length = trained.recipe.policy.max_sequence_length if trained else SEQUENCE_LENGTH
    try:
        return Painter(model, options.device, options.dtype, length, trained.recipe.policy.family if trained else None)
    except (ValueError, OSError) as error:
        raise UserError(f"{model} cannot be loaded: {error}") from error


def way(painter: Painter, trained: Trained | None, options: argparse.Namespace) -> Drawing:
    """How to draw: by the options given, else as the run evaluates, else by the model's own defaults. Raises Mistake."""
    drawing = painter.own_way()
    if trained:
        heldout, rollout = trained.recipe.heldout, trained.recipe.rollout
        drawing = replace(
            drawing,
            num_steps=heldout.steps,
            guidance_scale=heldout.guidance_scales[0],
            height=rollout.height,
            width=rollout.width,
        )
    said = {"num_steps": options.steps, "guidance_scale": options.guidance}
    if options.size:
        said["height"], said["width"] = options.size
    drawing = replace(drawing, **{key: value for key, value in said.items() if value is not None})
    painter.check(drawing)
    return drawing


def sheets(
    painter: Painter, trained: Trained | None, drawing: Drawing, options: argparse.Namespace, progress: Progress
) -> Iterator[Sheet]:
    """The pictures of every prompt: of the model and then, of a run, of what it has trained."""
    who = ["base", f"trained (step {trained.manifest.step})"] if trained else ["model"]
    task = progress.add_task("drawing", total=len(who) * len(options.prompts) * options.count)
    for label in who:
        if trained and label != who[0]:
            painter.wear(trained.adapter)
        for caption in options.prompts:
            seeds = tuple(range(options.seed, options.seed + options.count))
            images = []
            for first in range(0, options.count, AT_ONCE):
                batch = seeds[first : first + AT_ONCE]
                images.append(painter.draw(caption, batch, drawing))
                progress.advance(task, len(batch))
            yield label, caption, seeds, np.concatenate(images)


if __name__ == "__main__":
    sys.exit(main())
