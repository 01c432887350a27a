"""What a recipe names, looked at before any worker starts: its models, LoRA, prompts, checker and GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from os.path import isfile, join  # unlike Path's, it raises nothing for a name that is too long
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from actors.diffusion.adapter_file import AdapterFile, find_adapter
from actors.families.registry import image_family, vlm_family
from actors.messages import Prompt
from actors.models.folder import CHECKS
from actors.models.kinds import NamedModel
from actors.models.path import MARKERS, check_model
from actors.options import Table
from actors.policy.objectives.options import ObjectiveOptions
from actors.policy.options import LearnerOptions
from pipelines.data.captions import check_captions, check_prompts
from pipelines.data.prompts import PromptList, PromptOrder, PromptSet, load_prompt_sets
from pipelines.preflight.checker import check_checker, problem_of
from pipelines.preflight.memory.models import models_to_estimate
from pipelines.preflight.verdicts import gpus_not_asked_for, obstacles
from pipelines.preflight.weights import find_misfits
from pipelines.recipe.errors import UserError
from pipelines.recipe.keys import inputs
from pipelines.recipe.reward import RewardTable
from pipelines.recipe.tables import Policy, Rollout
from pipelines.recipe.training import Recipe

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward

GPU_FILES = ("nvidia[0-9]*", "dxg", "kfd")  # in /dev, where there is a GPU


def named_models(policy: Policy, rewards: Mapping[str, RewardTable]) -> dict[str, NamedModel]:
    """The models that a recipe names, by their keys."""
    return {"policy.model": NamedModel(policy.model, "pipeline", policy.family), **_judging(rewards)}


def _judging(rewards: Mapping[str, RewardTable]) -> dict[str, NamedModel]:
    """The models of rewards by their pools."""
    return {
        f"{pool}.{key}": named
        for pool, reward in rewards.items()
        for key, named in reward.options.named_models().items()
    }


def check_models(recipe: Recipe) -> bool:
    """Whether the weights of local models could be compared with their classes. Raises UserError for a model that cannot be used."""
    compared = check_named(named_models(recipe.policy, recipe.rewards))
    _check_files(recipe)
    check_objective(recipe.objective)
    return compared


def check_named(models: Mapping[str, NamedModel]) -> bool:
    """The same of models by the keys that name them."""
    for key, name, loads in own_families(models):
        _check_class(f"{key} = {name!r}: its class {loads!r}", loads)
    local = {key: named for key, named in models.items() if isfile(join(named.model, MARKERS[named.kind]))}
    try:
        for key, named in models.items():
            check_model(named.model, MARKERS[named.kind])
            if key in local:
                CHECKS[named.kind](Path(named.model), named.family)
        once = list(dict.fromkeys(local.values()))
        misfits = find_misfits(once)
    except ValueError as error:
        raise UserError(f"{key} = {models[key].model!r}: {error}") from None
    wrong = dict(zip(once, misfits or (), strict=False))
    for key, named in local.items():
        if misfit := wrong.get(named):
            raise UserError(f"{key} = {named.model!r}: {misfit}")
    return misfits is not None


def check_judges(recipe: Table, rewards: Mapping[str, RewardTable]) -> None:
    """Raises UserError for a model or a file of a reward, by its pool, that no worker could load."""
    check_named(_judging(rewards))
    _check_files(recipe)


def _check_files(recipe: Table) -> None:
    for key, file, mark in inputs(recipe):
        if key.startswith(("reward.", "objective.")) and not mark.hub and not isfile(file):
            raise UserError(f"{key} = {file!r}: there is no such file; give the path of one")


def check_objective(options: ObjectiveOptions) -> None:
    """Raises UserError if the class that the options name cannot be found."""
    _check_class(f"objective.type = {options.type!r}: its class {options.objective!r}", options.objective)


def own_families(models: Mapping[str, NamedModel]) -> Iterator[tuple[str, str, str]]:
    """The families that a recipe names: the key, what it names, and the class that workers load for it."""
    for key, named in models.items():
        if named.family:
            loads = image_family(named.family) if named.kind == "pipeline" else vlm_family(named.family)
            yield f"{key.rpartition('.')[0]}.family", named.family, loads.family


def _check_class(key: str, name: str) -> None:
    """Raises UserError if there is no such class. Its file is read and not run: it needs torch."""
    module, _, name = name.partition(":")
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UserError(f'{key} is not there: give "package.module:Class", in a package on Python\'s path')
    if found.origin and found.origin.endswith(".py") and (problem := problem_of(Path(found.origin), name)):
        raise UserError(f"{key} cannot be used: {problem}")


def init_adapter(policy: LearnerOptions) -> AdapterFile | None:
    """The LoRA that policy.init_adapter names. Raises UserError if there is none, or if it says itself that it does not fit."""
    if not policy.init_adapter:
        return None
    key = f"policy.init_adapter = {policy.init_adapter!r}"
    try:
        found = find_adapter(policy.init_adapter)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None
    wanted = {"policy.lora_rank": (found.rank, policy.lora_rank), "policy.lora_alpha": (found.alpha, policy.lora_alpha)}
    wrong = [f"{name} = {its}" for name, (its, ours) in wanted.items() if its not in (None, ours)]
    if wrong:
        raise UserError(f"{key}: {found.path} does not fit the recipe: set {', '.join(wrong)}")
    return found


def prompts_of(recipe: Recipe) -> tuple[PromptSet, PromptList, PromptOrder]:
    """The prompts to train on, the held-out ones, and the order of the first. Raises UserError if they, or the checker, cannot be used."""
    check_checker(recipe.heldout.checker)
    prompts, heldout = load_prompt_sets(recipe.data)
    for reward in recipe.rewards.values():
        check_captions(reward, prompts.sample(), heldout)
        check_prompts(reward, prompts.sample(), heldout)
    return prompts, heldout, PromptOrder(prompts, recipe.run.seed, recipe.rollout.prompts_per_step, recipe.data.mix)


def sample_prompts(recipe: Recipe) -> Sequence[Prompt]:
    """The prompts of training, or the first of very many, checked as a run checks all that it begins with. Raises UserError."""
    init_adapter(recipe.policy)
    prompts, _, _ = prompts_of(recipe)
    return prompts.sample()


def check_start(recipe: Recipe, executor: Literal["ray", "local"]) -> None:
    """Raises UserError for what the config files of local models say that no worker could start with.

    Raises Mistake for a config without a field that is asked for.
    """
    policy, rollout, rewards = recipe.policy, recipe.rollout, recipe.rewards
    found = (missing_gpus if executor == "local" else gpus_not_asked_for)(policy, rollout, rewards)
    if all(Path(named.model).expanduser().is_dir() for named in named_models(policy, rewards).values()):
        # a model of the hub is read by the workers, which report the same when they start
        found += obstacles(policy, rollout, rewards, models_to_estimate(policy, rewards))
    if found:
        raise UserError("\n".join(found))


def missing_gpus(policy: Policy, rollout: Rollout, rewards: Mapping[str, Reward]) -> list[str]:
    """The tables that ask for a GPU, if this machine has none."""
    if any(file for pattern in GPU_FILES for file in Path("/dev").glob(pattern)):
        return []
    judges = [(pool, reward.where) for pool, reward in rewards.items()]
    devices = [("policy", policy.device), ("rollout", rollout.device), *judges]
    return [
        f'{name}.device = "cuda", but this machine has no GPU of NVIDIA: set it to "auto" or "cpu"'
        for name, device in devices
        if device == "cuda"
    ]
