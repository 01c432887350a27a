"""Prompt sets: read and checked before anything starts, and the order in which a run takes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from actors.messages import Prompt
from actors.seeds import seed_of
from pipelines.config import UserError


def load_prompts(path: str, key: str) -> tuple[Prompt, ...]:
    """Reads a JSONL file with `caption` and, optionally, `id` and `category` per line; other fields go to `extra`.

    `key` is the recipe's key, for the messages. A line without an id gets a hash of its caption; a line that repeats an id with the
    same caption is dropped. Raises UserError for a missing or empty file, a line that is no JSON object, an empty caption, and an
    id with two captions.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"{key} = {path!r}: there is no such file; give a JSONL file with one prompt a line, each with a `caption`"
        )
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        prompt = _parse_line(line, f"{path}, line {number}")
        known = prompts.setdefault(prompt.id, prompt)
        if known.caption != prompt.caption:
            raise UserError(
                f"{path}, line {number}: the id {prompt.id!r} was given before with another caption "
                f"({known.caption[:60]!r}, now {prompt.caption[:60]!r}); ids must be unique"
            )
    if not prompts:
        raise UserError(f"{key} = {path!r}: the file holds no prompts")
    return tuple(prompts.values())


def _parse_line(line: str, where: str) -> Prompt:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f'{where}: not JSON ({error}); each line must be an object such as {{"caption": "a red circle"}}'
        ) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("caption"), str):
        raise UserError(f"{where}: no text field `caption`")
    caption = fields.pop("caption")
    if not caption.strip():
        raise UserError(f"{where}: the caption is empty; remove the line or write a caption")
    identity = str(fields.pop("id", None) or hashlib.sha256(caption.encode()).hexdigest()[:16])
    return Prompt(identity, caption, str(fields.pop("category", "all")), fields)


class PromptOrder:
    """Which prompt is the g-th of step s: a pure function of the seed, so that a resumed run takes up the same order.

    Prompts are shuffled anew each epoch. With a mix, each category has epochs of its own and gives its share of every step.
    """

    def __init__(self, prompts: tuple[Prompt, ...], seed: int, prompts_per_step: int, mix: Mapping[str, int]) -> None:
        self.seed = seed
        if mix:
            missing = sorted(mix.keys() - {prompt.category for prompt in prompts})
            if missing:
                raise UserError(
                    f"data.mix names categories that data.train does not have: {', '.join(missing)}; "
                    f"it has {', '.join(sorted({prompt.category for prompt in prompts}))}"
                )
            self.pools = [(tuple(p for p in prompts if p.category == name), count) for name, count in mix.items()]
        else:
            self.pools = [(prompts, prompts_per_step)]
        self._epochs: dict[tuple[int, int], list[Prompt]] = {}

    def prompt(self, step: int, group: int) -> tuple[Prompt, int]:
        """The prompt and its epoch: how often the prompt has come before."""
        for pool, (prompts, count) in enumerate(self.pools):
            if group < count:
                epoch, place = divmod((step - 1) * count + group, len(prompts))
                return self._shuffled(pool, epoch)[place], epoch
            group -= count
        raise IndexError("a step has fewer groups")

    def _shuffled(self, pool: int, epoch: int) -> list[Prompt]:
        if (pool, epoch) not in self._epochs:
            for old in [key for key in self._epochs if key[0] == pool and key[1] < epoch - 1]:
                del self._epochs[old]
            prompts = self.pools[pool][0]
            self._epochs[pool, epoch] = sorted(
                prompts, key=lambda prompt: seed_of(self.seed, "order", epoch, prompt.id)
            )
        return self._epochs[pool, epoch]
