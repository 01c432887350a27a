"""`echoray PROGRAM ...`, or `python -m pipelines PROGRAM ...`: one command before all programs, from any folder.

A program is loaded when it is named, so that this starts at once: `echoray train ...` is `python -m pipelines.train ...`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tomllib
from collections.abc import Sequence

from actors.paths import ROOT

PROGRAMS = {  # name -> (module, what it does)
    "train": ("pipelines.train", "train an image model by a judge's likelihood of the prompts"),
    "draw": ("pipelines.draw", "draw pictures from a model, or from a run beside its base"),
    "caption": ("pipelines.caption", "describe images: a prompt set to train on, and one that is held out"),
    "score": ("pipelines.score", "score images by the captions that they come with"),
    "evaluate": ("pipelines.evaluate", "evaluate models, runs and LoRAs on held-out prompts, in one table"),
    "export": ("pipelines.export", "write a run's LoRA, or the whole pipeline with it merged, for diffusers"),
    "report": ("pipelines.report", "write report.html of a run folder"),
    "compare": ("pipelines.compare", "show several runs side by side, as a page and as tables"),
    "doctor": ("pipelines.doctor", "say whether a recipe fits its GPUs, or what is wrong with a RayJob"),
    "plan": ("pipelines.plan", "say how to split a recipe's GPUs"),
    "submit": ("pipelines.submit", "send a training run to a Ray cluster and follow it"),
    "prefetch": ("pipelines.prefetch", "download the models of a recipe, once per node"),
    "cluster": ("cluster.__main__", "look at a run, scale its pools, stop it"),
}
PARSERS = {"train": "pipelines.recipe.arguments:train_parser"}  # where it is not the module's make_parser
SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program that is named, with the words that follow; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in PROGRAMS:
        module, _ = PROGRAMS[arguments[0]]
        return importlib.import_module(module).main(arguments[1:])
    options = parser().parse_args(arguments)
    if options.completion:
        print(completion(options.completion))
        return 0
    parser().print_help()
    return 2


def parser() -> argparse.ArgumentParser:
    """The parser of what stands before a program's name."""
    listed = "\n".join(f"  {name:<9} {about}" for name, (_, about) in PROGRAMS.items())
    parser = argparse.ArgumentParser(
        prog="echoray",
        usage="echoray [--help] [--version] [--completion SHELL] PROGRAM ...",
        description="Reinforcement learning of text-to-image models from the likelihood of a frozen judge, on Ray.",
        epilog=f"programs (each has a --help of its own):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"echoray {version()}")
    parser.add_argument(
        "--completion", choices=SHELLS, help='print what completes these words: eval "$(echoray --completion bash)"'
    )
    parser.add_argument("program", nargs="?", choices=PROGRAMS, metavar="PROGRAM", help=argparse.SUPPRESS)
    return parser


def version() -> str:
    """Of this repository."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def completion(shell: str) -> str:
    """The shell's script that completes programs and their options. Loads every program."""
    import shtab

    whole = argparse.ArgumentParser(prog="echoray")
    whole.add_argument("--version", action="store_true")
    whole.add_argument("--completion", choices=SHELLS)
    programs = whole.add_subparsers(dest="program")
    for name, (module, about) in PROGRAMS.items():
        where, _, function = PARSERS.get(name, f"{module}:make_parser").partition(":")
        options: argparse.ArgumentParser = getattr(importlib.import_module(where), function)()
        for action in options._actions:
            if action.nargs != 0 and action.choices is None:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        programs.add_parser(name, parents=[options], add_help=False, help=about)
    return shtab.complete(whole, shell)


if __name__ == "__main__":
    sys.exit(main())
