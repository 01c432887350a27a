"""Recipes: a TOML file plus `--set key=value`, read into typed tables and checked across fields. Loads neither torch nor ray."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError, model_validator

from actors.model_path import located
from actors.options import Table
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.registry import OBJECTIVES
from cluster.places import is_text
from pipelines.recipe_errors import explain, toml
from pipelines.tables import (
    Cluster,
    Data,
    Heldout,
    LoopTable,
    Monitor,
    Objective,
    Policy,
    Reward,
    Rollout,
    Run,
    Samples,
)

INPUTS = (("data", "train"), ("data", "heldout"), ("policy", "model"), ("policy", "init_adapter"), ("reward", "model"))


PART = r"""\s*(?:"[^"]*"|'[^']*'|[^.="'\s][^.="']*)\s*"""  # of a key
OVERRIDE = re.compile(rf"(?P<key>{PART}(?:\.{PART})*)=(?P<value>.*)", re.DOTALL)


class UserError(ValueError):
    """A mistake in what the user gave; its text says what was given, what is allowed and what to do. Exit code 2."""


class Recipe(Table):
    """One run, whole."""

    run: Run = Run()
    loop: LoopTable
    data: Data
    rollout: Rollout
    reward: Reward
    policy: Policy
    objective: Objective = AwmOptions()
    heldout: Heldout = Heldout()
    samples: Samples = Samples()
    monitor: Monitor = Monitor()
    cluster: Cluster = Cluster()

    @property
    def chunk(self) -> int:
        """Images of a group per task: a draw has those of `rollout.groups_per_task` groups, a score those of one."""
        return self.rollout.chunk or self.rollout.group_size

    @property
    def images_per_draw(self) -> int:
        """Images per draw task."""
        return self.chunk * self.rollout.groups_per_task

    @property
    def chunks_per_step(self) -> int:
        """Chunks of a step: its score tasks."""
        return self.rollout.prompts_per_step * self.rollout.group_size // self.chunk

    @property
    def draws_per_step(self) -> int:
        """Draw tasks of a step."""
        return -(-self.chunks_per_step // self.rollout.groups_per_task)

    @model_validator(mode="after")
    def check_across_tables(self) -> Recipe:
        """Raises ValueError for combinations that cannot run."""
        if self.rollout.group_size % self.chunk:
            raise ValueError(
                f"rollout.chunk = {self.chunk} does not divide rollout.group_size = {self.rollout.group_size}: "
                f"choose one of {[n for n in range(1, self.rollout.group_size + 1) if self.rollout.group_size % n == 0]}"
            )
        self._check_groups_per_task()
        for name, pool in (("rollout", self.rollout), ("reward", self.reward)):
            if not pool.min <= pool.size <= (pool.max or pool.size):
                raise ValueError(
                    f"{name}.size = {pool.size} lies outside of {name}.min = {pool.min} and {name}.max = {pool.max}: "
                    "a pool begins with a size between them"
                )
        self._check_ranks()
        if self.reward.transform == "exp" and self.reward.reduction == "sum":
            raise ValueError(
                'reward.transform = "exp" of a sum is 0 for any real caption: use reward.reduction = "mean"'
            )
        wanted = sum(self.data.mix.values())
        if self.data.mix and wanted != self.rollout.prompts_per_step:
            raise ValueError(
                f"data.mix takes {wanted} prompts a step but rollout.prompts_per_step = {self.rollout.prompts_per_step}: make them equal"
            )
        self._check_timesteps()
        self._check_exact()
        return self

    def _check_exact(self) -> None:
        for name, table in (("rollout", self.rollout), ("policy", self.policy)):
            if table.compile and self.loop.order == "strict" and self.run.deterministic:
                raise ValueError(
                    f'{name}.compile = true with loop.order = "strict" and run.deterministic = true: what torch.compile makes depends on '
                    "the shapes that a process met before, so that the run could not be repeated to the bit; leave compile out, or set "
                    "run.deterministic = false"
                )

    def _check_groups_per_task(self) -> None:
        together, prompts = self.rollout.groups_per_task, self.rollout.prompts_per_step
        if together > 1 and self.chunk < self.rollout.group_size:
            raise ValueError(
                f"rollout.groups_per_task = {together} draws whole groups together, but rollout.chunk = {self.chunk} draws parts of a "
                f"group of {self.rollout.group_size}: leave rollout.chunk out, or set rollout.groups_per_task = 1"
            )
        if together > prompts:
            raise ValueError(
                f"rollout.groups_per_task = {together}, but a step has only rollout.prompts_per_step = {prompts} groups: "
                f"choose from 1 to {prompts}"
            )

    def _check_timesteps(self) -> None:
        if self.rollout.noise == "group" and not self.objective.noisy:
            raise ValueError(
                f'rollout.noise = "group" with objective.type = "{self.objective.type}": all images of a group would be the same, '
                f"for only {' and '.join(name for name, one in OBJECTIVES.items() if one.noisy)} adds noise on the way; "
                'use rollout.noise = "own"'
            )
        self.objective.check(self.rollout.steps)

    def _check_ranks(self) -> None:
        ranks, tasks = self.policy.ranks, self.chunks_per_step
        if self.policy.zero_stage == 0 and ranks > 1:
            raise ValueError(
                f"policy.ranks = {ranks} with policy.zero_stage = 0: stage 0 is one rank of plain torch; choose stage 1, 2 or 3"
            )
        if ranks > tasks:
            raise ValueError(
                f"policy.ranks = {ranks}, but a step has only {tasks} chunks to share among them: "
                "raise rollout.prompts_per_step or lower rollout.chunk"
            )
        if self.cluster.heartbeat_timeout_s <= self.cluster.heartbeat_s:
            raise ValueError(
                f"cluster.heartbeat_timeout_s = {self.cluster.heartbeat_timeout_s} must be above "
                f"cluster.heartbeat_s = {self.cluster.heartbeat_s}"
            )


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe and applies `key.sub=value` overrides (values in TOML; a bare word is a string). Raises UserError.

    The recipe's own path and those in it lead from the current folder, else from the repository's root.
    """
    path = Path(located(str(path)))
    tables = _read_toml(path)
    for override in overrides:
        apply_override(tables, override)
    for table, key in INPUTS:
        if isinstance(found := tables.get(table), dict) and isinstance(place := found.get(key), str):
            found[key] = located(place)
    return parse_recipe(tables, source=str(path))


def parse_recipe(tables: dict[str, Any], source: str) -> Recipe:
    """Checks the tables of a recipe. Raises UserError that lists every problem, each with the nearest valid key."""
    if beyond := [f"  {key}: the integer is beyond 64 bits" for key, value in _leaves("", tables) if _is_beyond(value)]:
        raise UserError(f"{source} cannot be run:\n" + "\n".join(beyond))
    try:
        return Recipe.model_validate(_lists_to_tuples(tables))
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in explain(error, Recipe))
        raise UserError(f"{source} cannot be run:\n{problems}") from error


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Sets one `key.sub=value` in the tables; of several for one key the last one counts. A name with a dot stands in quotes.

    Raises UserError if the text has no `=` or is not UTF-8, or runs through a value that is no table.
    """
    found = OVERRIDE.match(override)
    if not found:
        raise UserError(f"--set {override!r}: give key=value, such as --set rollout.size=2")
    if not is_text(override):
        raise UserError(f"--set {override!r}: not UTF-8; set the terminal to UTF-8, or put it into the recipe")
    *parents, leaf = (part.strip().strip("\"'") for part in re.findall(PART, found["key"]))
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override!r}: {parent} is a value, not a table: {toml(table)}")
    table[leaf] = _parse_value(found["value"].strip(), override)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as TOML: every key that has a value, defaults included."""
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


def _read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises UserError."""
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give the path of a TOML file, such as recipes/toy.toml") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        raise UserError(f"no recipe at {path}: give the path of a TOML file, such as recipes/toy.toml") from None
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from None
    try:
        return tomllib.loads(data.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not UTF-8, at byte {error.start}, in line {line}: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {_toml_problem(error)}") from error


def _parse_value(text: str, override: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise UserError(f"--set {override[:80]!r}: {_toml_problem(error)}") from None
    return found["value"] if found.keys() == {"value"} else text


def _toml_problem(error: Exception) -> str:
    """What tomllib lets Python say, in words."""
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "an integer beyond 64 bits"


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is neither a table nor an array, with its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(f"{prefix}[{number}]", item)
    else:
        yield prefix, value


def _is_beyond(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value
