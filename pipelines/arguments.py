"""The command line of pipelines.train, for itself and for whoever reads such a command in a manifest. Loads neither torch nor ray."""

from __future__ import annotations

import argparse
from pathlib import Path

ABOUT = "The main job: draw images of prompts, let a frozen judge score them, make the better ones more likely; again and again."


def train_parser(parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser. `parser_class` decides what a mistake does: argparse's own ends the process with exit code 2."""
    parser = parser_class(prog="python -m pipelines.train", description=ABOUT)
    parser.add_argument("recipe", type=Path, help="a TOML file, such as recipes/toy.toml")
    parser.add_argument(
        "--out", help="the run folder, a path or a URL such as s3://bucket/run (default: runs/<recipe>-<time>)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as rollout.size=2"
    )
    parser.add_argument(
        "--executor", choices=("ray", "local"), default="ray", help="local: all in this process, for a debugger"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue the run in --out from its newest checkpoint, if it has one, or from this one (a folder or a URL)",
    )
    return parser
