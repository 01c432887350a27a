"""What the fields of a prompt file mean: which one is the caption, the id, the category, under the names that people give them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from actors.messages import Prompt
from pipelines.data.strict_json import kind_of
from pipelines.recipe.errors import UserError

ROLES = ("caption", "id", "category")
CAPTIONS = ("caption", "captions", "prompt", "prompts", "text")  # in any case
CATEGORIES = ("category", "tag")
SHOWN = 12  # names in a message


class Fields:
    """Finds the fields of a set. `caption`: the name that the recipe gives to that with the caption; "": the common ones.

    A file that lacks `caption` is read by the common names: `found` says whether any file had it.
    """

    def __init__(self, caption: str = "") -> None:
        self.caption = caption
        self.found = False
        self.seen: set[str] = set()
        self._other: dict[str, str] = {}  # role -> its name, where that is another one
        self._of = lru_cache(maxsize=64)(self._find)

    def of(self, names: Sequence[str], where: str) -> dict[str, str]:
        """The field of each of ROLES that is there. Raises UserError if that of the caption is missing or could be several."""
        try:
            return self._of(tuple(names))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def said(self, key: str) -> str:
        """What is read under other names than ROLES, for people; "" if nothing is."""
        plural = {"caption": "captions", "id": "ids", "category": "categories"}
        read = [f"{plural[role]} from `{name}`" for role, name in sorted(self._other.items())]
        return f"{key}: {', '.join(read)}" if read else ""

    def _find(self, names: tuple[str, ...]) -> dict[str, str]:
        self.seen |= set(names)
        found = {"caption": self._find_caption(names)}
        for role, known in (("id", ("id",)), ("category", CATEGORIES)):
            if name := _first(names, known):
                found[role] = name
        self._other |= {role: name for role, name in found.items() if role != name}
        return found

    def _find_caption(self, names: tuple[str, ...]) -> str:
        if self.caption and self.caption in names:
            self.found = True
            return self.caption
        if "caption" in names:
            return "caption"
        common = [name for name in names if name.strip().lower() in CAPTIONS]
        if len(common) == 1:
            return common[0]
        if common:
            raise UserError(f"which field is the caption, {' or '.join(common)}? Say so: {_key(common[0])}")
        raise UserError(
            f"no field for the caption: it has {shown(names)}. The common names are {', '.join(CAPTIONS)}; another one is named by "
            f"{_key(next(iter(names), 'description'))}"
        )


def prompt_of(record: Any, where: str, fields: Fields) -> Prompt:
    """The prompt of a record: an object, or a text, which is the caption. Raises UserError.

    What the record holds beside caption, id and category goes to `extra`, under its own name, and so do those three if they have others.
    """
    if isinstance(record, str):
        record = {"caption": record}
    if not isinstance(record, dict):
        raise UserError(f'{where}: {kind_of(record)}, but an object such as {{"caption": "a red circle"}} is expected')
    found = fields.of(
        [name for name, value in record.items() if value is not None or name in ("caption", fields.caption)], where
    )
    given = {role: record[name] for role, name in found.items()}
    caption = given["caption"]
    if not isinstance(caption, str):
        raise UserError(f"{where}: `{found['caption']}` is {kind_of(caption)}, but the caption is text")
    if not caption.strip():
        raise UserError(f"{where}: the caption is empty; remove the {where.split()[-2]} or write a caption")
    extra = {name: value for name, value in record.items() if name not in ROLES}
    identity = _label(given.get("id"), found.get("id", ""), where) or id_of(caption)
    return Prompt(identity, caption, _label(given.get("category"), found.get("category", ""), where) or "all", extra)


def id_of(caption: str) -> str:
    """The id of a prompt that was given none."""
    return hashlib.sha256(caption.encode()).hexdigest()[:16]


def shown(names: Iterable[str]) -> str:
    """Names in a message, the first of them."""
    listed = list(names)
    return (", ".join(listed[:SHOWN]) or "no fields") + (" ..." if len(listed) > SHOWN else "")


def repeats_said(count: int, total: int, key: str, places: Sequence[str]) -> str:
    """That prompts were left out which came before."""
    more = " ..." if count > len(places) else ""
    return (
        f"{count} of {total} prompts of {key} repeat an earlier one, with its id or, without ids, its caption, and are left out: "
        f"{'; '.join(places)}{more}"
    )


def two_captions(where: str, identity: str, known: str, caption: str, before: str = "") -> str:
    """That an id has two captions, which no set may have."""
    return (
        f"{where}: the id {identity!r} was given before{before} with another caption ({known[:60]!r}, now {caption[:60]!r}); "
        "ids must be unique"
    )


def _label(value: Any, name: str, where: str) -> str:
    """An id or a category as text; "" if it is not given."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: `{name}` is {kind_of(value)}, but text or a number is expected")
    return str(value)


def _first(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The name that is the first of the `known`, itself or in another case."""
    alike = ((wanted, name) for wanted in known for name in names if name.strip().lower() == wanted)
    ranked = sorted(alike, key=lambda pair: (known.index(pair[0]), pair[0] != pair[1]))
    return ranked[0][1] if ranked else None


def _key(name: str) -> str:
    return f'data.caption = "{name}"'
