"""The recipes that come along say how far they are proven, fit their cards, and give downloads their time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.preflight.memory.cards import GIB, USABLE, card_needed, fullest_gpu
from pipelines.preflight.memory.estimate import estimate
from pipelines.preflight.memory.models import models_to_estimate
from pipelines.recipe.load import load_recipe
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.evaluate import EvaluateRecipe
from pipelines.recipe.programs.score import ScoreRecipe

FOLDER = Path(__file__).resolve().parents[3] / "recipes"
OF_OTHERS = {
    FOLDER / "toy_score.toml": ScoreRecipe,
    FOLDER / "toy_evaluate.toml": EvaluateRecipe,
    FOLDER / "toy_caption.toml": CaptionRecipe,
}  # programs than `train`
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if path not in OF_OTHERS)
HERE = ("learned here", "ran here")  # on CPUs
LEVELS = (*HERE, "ran on a GPU", "estimated only")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_far_it_is_proven_and_fits_its_card(path: Path) -> None:
    head = path.read_text().partition("\n[")[0]
    [level] = re.findall(r"^# Evidence: ([\w ]+)[.,:]", head, re.MULTILINE)
    assert level.startswith(LEVELS)
    card = re.search(r"(\d+) GB", head)
    recipe = load_recipe(path)
    assert level.startswith(HERE) == (card is None), "only the miniature world has learned, and it needs no card"
    if card:
        room = round(int(card[1]) * GIB * USABLE)
        found = estimate(recipe, models_to_estimate(recipe.policy, recipe.rewards))
        assert fullest_gpu(found.actors)[0] <= room
        assert card_needed(found.actors) <= room, "torch in each worker keeps to its share"
        assert recipe.cluster.start_timeout_s >= 1800, "gigabytes are downloaded"
        assert recipe.rollout.images_per_score % recipe.policy.micro_batch == 0, (
            "a micro-batch of several captions is padded and masked"
        )


@pytest.mark.parametrize("path", OF_OTHERS, ids=lambda path: path.stem)
def test_a_recipe_of_another_program_can_be_read_by_it(path: Path) -> None:
    assert load_recipe(path, kind=OF_OTHERS[path])
