"""What a recipe may name beyond a registry: a class of a package that its user brings along. Loads neither torch nor ray."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

from actors.mistake import Mistake

T = TypeVar("T")

FORM = "package.module:Name"


def class_named(name: str, registry: Mapping[str, type[T]], base: type[T], key: str) -> type[T]:
    """The class of this name in a registry, or at `package.module:Name`, derived from `base`. `key`: where a recipe names it.

    Raises Mistake where there is none.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        known = ", ".join(f'"{kind}"' for kind in registry)
        raise Mistake(f'{key} = "{name}": allowed are {known}, or your own as "{FORM}"{hint}')
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:  # a module may raise anything while it is imported
        raise Mistake(
            f'{key} = "{name}" cannot be loaded: {type(error).__name__}: {error}. Start in the folder that holds its package, or put '
            "that folder on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise Mistake(f'{key} = "{name}" is no such class: derive it from {base.__module__}:{base.__name__}')
    return found


def loaded(name: str) -> Any:
    """The class at `module:Name`, which only a worker loads. Raises Mistake for one that cannot be imported."""
    try:
        return pkgutil.resolve_name(name)
    except Exception as error:  # a module may raise anything while it is imported
        raise Mistake(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
