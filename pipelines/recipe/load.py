"""Reads a recipe: a TOML file plus `--set key=value`, into typed tables. Loads neither torch nor ray."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError
from typing_extensions import TypeVar

from actors.options import Table
from actors.paths import located
from cluster.storage.files import is_text
from pipelines.recipe.errors import UserError
from pipelines.recipe.explain import explain, toml
from pipelines.recipe.training import Recipe

R = TypeVar("R", bound=Table, default=Recipe)
PART = r"""\s*(?:"[^"]*"|'[^']*'|[^.="'\s][^.="']*)\s*"""  # of a key
OVERRIDE = re.compile(rf"(?P<key>{PART}(?:\.{PART})*)=(?P<value>.*)", re.DOTALL)


def load_recipe(path: Path, overrides: Iterable[str] = (), kind: type[R] = Recipe) -> R:  # type: ignore[assignment]
    """Reads a recipe of this kind and applies `key.sub=value` overrides (values in TOML; a bare word is a string). Raises UserError.

    The recipe's own path leads from the current folder, else from the repository's root.
    """
    source, tables = tables_of(path, overrides)
    return parse_recipe(tables, source, kind)


def tables_of(path: Path, overrides: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Where a recipe lies, and its tables after the overrides. Raises UserError."""
    path = Path(located(str(path)))
    tables = _read_toml(path)
    for override in overrides:
        apply_override(tables, override)
    return str(path), tables


def parse_recipe(tables: dict[str, Any], source: str, kind: type[R] = Recipe) -> R:  # type: ignore[assignment]
    """Checks the tables of a recipe of this kind. Raises UserError that lists every problem, each with the nearest valid key."""
    if beyond := [f"  {key}: the integer is beyond 64 bits" for key, value in _leaves("", tables) if _is_beyond(value)]:
        raise UserError(f"{source} cannot be run:\n" + "\n".join(beyond))
    try:
        return kind.model_validate(_lists_to_tuples(tables))
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in explain(error, kind, tables))
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
    table: Any = tables
    for parent in parents:
        table = table.setdefault(parent, {}) if isinstance(table, dict) else _named(table, parent, override)
        if not isinstance(table, dict) and not _are_tables(table):
            raise UserError(f"--set {override!r}: {parent} is a value, not a table: {toml(table)}")
    if isinstance(table, list):
        _named(table, leaf, override)
        raise UserError(f"--set {override!r}: {parents[-1]}.{leaf} is a table: set one of its keys")
    table[leaf] = _parse_value(found["value"].strip(), override)


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _named(tables: list[dict[str, Any]], name: str, override: str) -> dict[str, Any]:
    """The table of this name in an array of them. Raises UserError if there is none."""
    for table in tables:
        if table.get("name") == name:
            return table
    names = ", ".join(str(table.get("name")) for table in tables)
    raise UserError(f"--set {override!r}: there are several tables, and none is named {name}: name one of {names}")


def dump_recipe(recipe: Table) -> str:
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
