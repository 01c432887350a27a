"""Command lines: of the programs that make a run folder, and numbers and paths of any. Loads neither torch nor ray.

What is no number or path raises ArgumentTypeError or ValueError, which end a program with exit code 2.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

AUTO = "auto"  # --resume without a checkpoint
ABOUT = "The main job: draw images of prompts, let a frozen judge score them, make the better ones more likely; again and again."


def path_of(text: str) -> Path:
    """A path on the command line; `~` is the home folder, also where a shell leaves it as it is (`--out=~/run`).

    Raises ArgumentTypeError, which ends the program with exit code 2, for an empty one.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty (is a variable unset?)")
    return Path(os.path.expanduser(text))


def count(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return number


def length(text: str) -> int:
    """A whole number of 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more")
    return number


def seed(text: str) -> int:
    """A whole number of 0 or more, below 2**63."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text}: give 0 or more, below 2**63")
    return number


def scale(text: str) -> float:
    """A number of 0 or more."""
    scale = float(text)
    if not 0 <= scale < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a number of 0 or more")
    return scale


def size_of(text: str) -> tuple[int, int]:
    """Height and width in pixels, given as 512x768."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"{text}: give height x width in pixels, such as 512x768")
    return int(match[1]), int(match[2])


def parse_train(
    arguments: Sequence[str] | None, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.Namespace:
    """The options. `parser_class` decides what a mistake does: argparse's own ends the process with exit code 2."""
    parser = train_parser(parser_class)
    options = parser.parse_args(arguments)
    if options.recipe is None:
        if options.resume not in (None, AUTO):
            parser.error(
                f"the recipe is missing, or --resume has taken it for a checkpoint: put the recipe first, as in {options.resume} "
                "--out PLACE --resume"
            )
        parser.error("the recipe is missing: give a TOML file, such as recipes/toy.toml")
    if options.resume == AUTO and options.out is None:
        parser.error(
            "--resume: which run? Name its folder with --out, or a checkpoint, as in --resume PLACE/checkpoints/step-000050"
        )
    return options


def train_parser(parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser. A missing recipe is reported by `parse_train`, which knows where it may have gone."""
    parser = parser_class(prog="python -m pipelines.train", description=ABOUT)
    parser.add_argument("recipe", type=path_of, nargs="?", help="a TOML file, such as recipes/toy.toml")
    _add_common(parser, "rollout.size=2")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=AUTO,
        metavar="CHECKPOINT",
        help="continue the run in --out from its newest checkpoint, if it has one, or from this one (a folder or a URL)",
    )
    return parser


def map_parser(program: str, about: str, recipe: str, override: str) -> argparse.ArgumentParser:
    """The parser of a program that trains nothing: what it has written is where it goes on. recipe, override: examples."""
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{program}", description=about)
    parser.add_argument("recipe", type=path_of, help=f"a TOML file, such as {recipe}")
    _add_common(parser, override)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, with what is not written yet"
    )
    return parser


def parse_map(
    program: str, parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """The options of such a program, with `command`, the whole line; a mistake ends the process with exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "-m", f"pipelines.{program}", *arguments])
    if options.resume and options.out is None:
        parser.error("--resume: which run? Name its folder with --out")
    return options


def _add_common(parser: argparse.ArgumentParser, override: str) -> None:
    """What every program that makes a run folder takes."""
    parser.add_argument(
        "--out", help="the run folder, a path or a URL such as s3://bucket/run (default: runs/<recipe>-<time>)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"override a key, such as {override}"
    )
    parser.add_argument(
        "--executor", choices=("ray", "local"), default="ray", help="local: all in this process, for a debugger"
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="take the run folder from a run that still writes there; that one ends itself",
    )
