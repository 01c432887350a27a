"""Writes what a run has trained for diffusers: the LoRA, or the whole pipeline with the LoRA in its weights.

    python -m pipelines.export RUN --out DIR [--merge] [--dtype auto|float32|bfloat16|float16] [--checkpoint last|best|STEP]

RUN is a run's folder or URL, or a checkpoint. DIR then opens with `load_lora_weights(DIR)`, or with --merge with
`DiffusionPipeline.from_pretrained(DIR)`. Exit codes: 0 done, 2 a user's mistake, 1 anything else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from actors.models.path import PIPELINE_MARKER, check_model
from actors.process import Process, prepare
from cluster import speaking
from pipelines.recipe.arguments import path_of
from pipelines.recipe.errors import UserError
from pipelines.running.trained import LAST, Trained, absolute, check_free, open_trained

CARD = "README.md"


@speaking.program
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return export(make_parser().parse_args(arguments), speaking.console())


def make_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.export", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", metavar="RUN", help="a run (folder or URL), or a checkpoint")
    parser.add_argument("--out", type=path_of, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--merge", action="store_true", help="the whole pipeline, the LoRA merged into its weights")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (auto: as they are stored)",
    )
    parser.add_argument(
        "--checkpoint", default=LAST, metavar="WHICH", help="of a run: last, best (held out), or a step (last)"
    )
    return parser


def export(options: argparse.Namespace, console: Console) -> int:
    """Writes the folder, whole or not at all. Raises UserError or Mistake."""
    out: Path = options.out.absolute()
    check_free(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        trained = open_trained(absolute(options.run), options.checkpoint, Path(beside))
        made = Path(beside, "made")
        made.mkdir()
        told = write(trained, made, options)
        (made / CARD).write_text(card(trained, options.merge, told), encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(made, out)
    speaking.say(console, f"{options.out}  (step {trained.manifest.step}); {options.out / CARD} says how to open it")
    return 0


def write(trained: Trained, folder: Path, options: argparse.Namespace) -> tuple[str, ...]:
    """Writes the weights; returns the arguments with which diffusers opens the pipeline. Raises UserError if the base is missing."""
    prepare(Process())
    from actors.diffusion import export as exporting

    if not options.merge:
        exporting.write_lora(trained.adapter, folder, options.dtype)
        return exporting.arguments_to_open(trained.base)
    try:
        check_model(trained.base, PIPELINE_MARKER)
        exporting.write_merged(
            trained.base,
            trained.adapter,
            folder,
            options.dtype,
            trained.recipe.policy.max_sequence_length,
            trained.recipe.policy.family,
        )
    except ValueError as error:
        raise UserError(f"the base of the run, {trained.base!r}: {error}") from error
    return exporting.arguments_to_open(str(folder))


def card(trained: Trained, merged: bool, told: Sequence[str]) -> str:
    """README.md of what is exported: what it is, how to open it, what it came of."""
    manifest, recipe = trained.manifest, trained.recipe
    kind = "pipeline with a merged LoRA" if merged else "LoRA"
    model = "FOLDER" if merged else f'"{recipe.policy.model}"'
    opening = f"DiffusionPipeline.from_pretrained({', '.join([model, *told])})"
    rewards = [f"`{one.type}`" + (f" of `{one.judge}`" if one.judge else "") for one in recipe.rewards.values()]
    opening += "" if merged else "\npipeline.load_lora_weights(FOLDER)"
    return f"""---
base_model: {recipe.policy.model}
library_name: diffusers
pipeline_tag: text-to-image
tags: [text-to-image, {"" if merged else "lora, "}reinforcement-learning, echoray]
---

# {recipe.run.name or "EchoRay"}: {kind}, step {manifest.step}

Trained by EchoRay: `{recipe.objective.type}` on the reward {" and ".join(rewards)}.

```python
import torch
from diffusers import DiffusionPipeline

pipeline = {opening}
```

| | |
|---|---|
| base model | {recipe.policy.model} |
| step | {manifest.step} of {recipe.loop.steps} |
| images trained on | {manifest.work["images"]} |
| LoRA | rank {recipe.policy.lora_rank}, alpha {recipe.policy.lora_alpha:g}, {recipe.policy.lora_targets} |
| digest | {manifest.digest} |
| adapter, sha256 | {manifest.work["adapters"].get(str(manifest.step), "")} |
| packages | {", ".join(f"{name} {version}" for name, version in manifest.packages.items())} |

The recipe:

```toml
{trained.recipe_toml.strip()}
```
"""


if __name__ == "__main__":
    sys.exit(main())
