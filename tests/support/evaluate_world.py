"""`evaluate` without models: a run of the plain world, its base, and the program with workers in plain numpy."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load as parse

from actors.messages import Adapter, DrawRequest, Prompt, Scores, sha256_of
from actors.rollout.options import LoraFiles
from cluster.tasks import PoolSpec
from pipelines.evaluate import program
from pipelines.evaluating.pools import ROLLOUT, pool_specs
from pipelines.evaluating.sheets import Sheets
from pipelines.recipe.programs.evaluate import CHECKER
from pipelines.recipe.reward import by_pool
from tests.support.plain_world import DOWN, FEATURES, UP, PlainReward, PlainRollout

BASE = "plain/image"  # a name alone
JOURNAL = "EVALUATE_JOURNAL"  # the variable that names the file in which judges write down what they score
PAUSE_S = 0.05  # of each score
ALPHA_OF_RANK = 2.0  # as the plain recipe has it, whose files do not say it
NOTHING = {DOWN: np.zeros((1, FEATURES), np.float32), UP: np.zeros((FEATURES, 1), np.float32)}
RECIPE = """
[models]
base = "plain/image"
{models}
[data]
heldout = "{folder}/heldout.jsonl"
[reward]
model = "{judge}"
[heldout]
images_per_category = 4
chunk = 2
groups_per_task = {together}
steps = 4
sizes = [[32, 32]]
guidance_scales = [1.0, 2.0]
checker = "tests.support.shapes:check"
shard_images = 4
"""


def write_evaluate(
    world: Path, path: Path, models: Mapping[str, str | Path], judge: str = "plain/judge", together: int = 2
) -> Path:
    """A recipe of the base and these models, on the held-out prompts beside a world's recipe; returns its path."""
    named = "\n".join(f'{name} = "{place}"' for name, place in models.items())
    path.write_text(RECIPE.format(models=named, folder=world.parent, judge=judge, together=together))
    return path


@dataclass
class PlainModels:
    """As `ModelsActor`."""

    loras: Mapping[str, LoraFiles] = field(default_factory=dict)
    pause_s: float = 0.0

    def draw(self, request: DrawRequest) -> tuple:
        """As `ModelsActor.draw`."""
        lora = self.loras.get(request.adapter_sha256)
        tensors = parse(lora.files[lora.weights]) if lora else NOTHING
        rank, sha256 = len(tensors[DOWN]), sha256_of(tensors)
        adapter = Adapter(0, rank, ALPHA_OF_RANK * rank, (), sha256, tensors)
        return PlainRollout(self.pause_s).draw(replace(request, adapter_sha256=sha256), adapter)


@dataclass
class Journalling(PlainReward):
    """Writes down what it scores, a line for each group of images, in a file. `pause_s` leaves time to catch it."""

    journal: str = ""

    def score(self, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        scores = super().score(prompt, images_KHWC)
        with open(self.journal, "a") as file:
            file.write(f"{prompt.id} {hashlib.sha256(images_KHWC.tobytes()).hexdigest()}\n")
        return scores


def plain_pools(sheets: Sheets, run: Path) -> list[PoolSpec]:
    """The pools of a run with plain workers; places, sizes and limits are the recipe's."""
    recipe = sheets.recipe
    judges = {pool: table.judge for pool, table in by_pool(recipe.reward).items()}

    def plain(spec: PoolSpec) -> PoolSpec:
        if spec.name.startswith(ROLLOUT):
            return replace(spec, actor=PlainModels, kwargs={"loras": spec.kwargs["loras"]})
        judge = {"model": judges.get(spec.name, ""), "checker": recipe.heldout.checker}
        if spec.name == CHECKER or JOURNAL not in os.environ:
            return replace(spec, actor=PlainReward, kwargs=judge)
        return replace(spec, actor=Journalling, kwargs={**judge, "journal": os.environ[JOURNAL], "pause_s": PAUSE_S})

    return [plain(spec) for spec in pool_specs(sheets, run)]


main = program(plain_pools)

if __name__ == "__main__":
    sys.exit(main())
