"""Prompt sets: read and checked before anything starts, and the order in which a run takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from actors.messages import Prompt
from actors.seeds import seed_of
from cluster import speaking
from pipelines.data.parquet_prompts import PLACES_SHOWN, ParquetPrompts
from pipelines.data.prompt_fields import Fields, prompt_of, repeats_said, shown, two_captions
from pipelines.data.prompt_files import ParquetFile, find_files
from pipelines.data.prompt_text import read_records
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Data


class Shuffled(Protocol):
    """Prompts in a new order every epoch, a pure function of the seed."""

    def __len__(self) -> int: ...

    def prompt(self, epoch: int, place: int) -> Prompt: ...


class PromptSet(Protocol):
    """What a run needs of its training prompts, however many there are. The repr stands for the content."""

    @property
    def categories(self) -> Collection[str]: ...

    def shuffled(self, category: str | None, seed: int) -> Shuffled: ...

    def sample(self) -> Sequence[Prompt]: ...


class PromptList(tuple[Prompt, ...]):
    """A set in memory. Its repr is that of the tuple."""

    __slots__ = ()

    @property
    def categories(self) -> set[str]:
        return {prompt.category for prompt in self}

    def shuffled(self, category: str | None, seed: int) -> Shuffled:
        """The prompts of a category (None: all)."""
        return ShuffledList([prompt for prompt in self if category in (None, prompt.category)], seed)

    def sample(self) -> Sequence[Prompt]:
        """All of them."""
        return self


class ShuffledList:
    """Prompts in memory, each epoch sorted by a hash."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self.prompts, self.seed = prompts, seed
        self._epochs: dict[int, list[Prompt]] = {}

    def __len__(self) -> int:
        return len(self.prompts)

    def prompt(self, epoch: int, place: int) -> Prompt:
        if epoch not in self._epochs:
            for old in [known for known in self._epochs if known < epoch - 1]:
                del self._epochs[old]
            self._epochs[epoch] = sorted(self.prompts, key=lambda p: seed_of(self.seed, "order", epoch, p.id))
        return self._epochs[epoch][place]


class PromptOrder:
    """Which prompt is the g-th of step s: a pure function of the seed, so that a resumed run takes up the same order.

    Prompts are shuffled anew each epoch. With a mix, each category has epochs of its own and gives its share of every step.
    """

    def __init__(self, prompts: PromptSet, seed: int, prompts_per_step: int, mix: Mapping[str, int]) -> None:
        missing = sorted(mix.keys() - set(prompts.categories))
        if missing:
            raise UserError(
                f"data.mix names categories that data.train does not have: {', '.join(missing)}; "
                f"it has {', '.join(sorted(prompts.categories))}"
            )
        shares: list[tuple[str | None, int]] = [*mix.items()] or [(None, prompts_per_step)]
        self.shares = [(prompts.shuffled(category, seed), count) for category, count in shares]

    def prompt(self, step: int, group: int) -> tuple[Prompt, int]:
        """The prompt and its epoch: how often the prompt has come before."""
        for prompts, count in self.shares:
            if group < count:
                epoch, place = divmod((step - 1) * count + group, len(prompts))
                return prompts.prompt(epoch, place), epoch
            group -= count
        raise IndexError("a step has fewer groups")


def load_prompt_sets(data: Data) -> tuple[PromptSet, PromptList]:
    """The training prompts, read when they are needed if they lie in Parquet files, and the held-out ones, in memory.

    Raises UserError for what `load_prompts` raises it, for captions that are in both, and if neither has the field `data.caption`.
    """
    fields = Fields(data.caption), Fields(data.caption)
    files = find_files(data.train, "data.train")
    heldout = load_prompts(data.heldout, "data.heldout", fields[1]) if data.heldout else PromptList()
    captions = [prompt.caption for prompt in heldout]
    train: ParquetPrompts | PromptList
    if _are_parquet(files):
        opened = _opened(files, "data.train", fields[0])
        train = ParquetPrompts(opened, "data.train", captions, tuple(data.mix))
        trained = train.shared
        _say(fields[0].said("data.train"))
    else:
        train = load_prompts(data.train, "data.train", fields[0])
        trained = {prompt.caption for prompt in train}
    if data.caption and not any(each.found for each in fields):
        seen = sorted(fields[0].seen | fields[1].seen)
        raise UserError(f"data.caption = {data.caption!r}: no prompt has such a field; there are {shown(seen)}")
    shared = [caption for caption in captions if caption in trained]
    if shared:
        raise UserError(
            f"{len(shared)} captions of data.heldout are also in data.train, the first is {shared[0][:80]!r}: "
            "they would not be held out; remove them from one of the files"
        )
    return train, heldout


def load_prompts(path: str, key: str, fields: Fields | None = None) -> PromptList:
    """Reads the prompts of a file, or of Parquet files, into memory (docs/data.md).

    `key` is the recipe's key, for the messages. Without an id a prompt gets a hash of its caption; one that repeats an id with the
    same caption is left out, which is said. Raises UserError for a missing, unreadable or empty file, and for what is wrong in it.
    """
    files, fields = find_files(path, key), fields or Fields()
    prompts: dict[str, Prompt] = {}
    repeats: list[str] = []
    try:
        records = _rows(_opened(files, key, fields)) if _are_parquet(files) else read_records(files[0])
        for where, record in records:
            prompt = prompt_of(record, where, fields)
            if prompt.id in prompts:
                _check_same(prompts[prompt.id], prompt, where)
                repeats.append(where)
            prompts.setdefault(prompt.id, prompt)
    except OSError as error:
        raise UserError(f"{key}: {error}") from error
    if not prompts:
        raise UserError(f"{key} = {path!r}: the file holds no prompts")
    _say(fields.said(key))
    if repeats:
        _say(repeats_said(len(repeats), len(prompts) + len(repeats), key, repeats[:PLACES_SHOWN]), "warning")
    return PromptList(prompts.values())


def _are_parquet(files: Sequence[str]) -> bool:
    return files[0].lower().endswith(".parquet")


def _opened(files: Sequence[str], key: str, fields: Fields) -> list[ParquetFile]:
    try:
        return [ParquetFile(file, fields) for file in files]
    except OSError as error:
        raise UserError(f"{key}: {error}") from error


def _rows(files: Sequence[ParquetFile]) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        for number, fields in enumerate(file.records(), start=1):
            yield f"{file.place}, row {number}", fields


def _check_same(known: Prompt, prompt: Prompt, where: str) -> None:
    """Raises UserError if two prompts of one id have different captions."""
    if known.caption != prompt.caption:
        raise UserError(two_captions(where, prompt.id, known.caption, prompt.caption))


def _say(text: str, kind: str = "") -> None:
    if text:
        speaking.say(speaking.console(stderr=True), text, kind, "yellow" if kind else "")
