"""What programs share that read the images of a set: batches are read, then go together to pools side by side, and are written down."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from cluster.storage.files import StorageError
from cluster.tasks import Failure, Handle, Outcome, PoolSpec
from pipelines.data.image_files import read_image
from pipelines.data.images import ImageRow
from pipelines.engine.messages import Ask, LoopPlan, Notice, Quarantined, Released, Settled, Spared, Sweeps, Unit
from pipelines.engine.work import Call, Refused
from pipelines.recipe.programs.mapping import READER
from pipelines.recipe.tables import Pool
from pipelines.run_folder.shards import Record, Shards
from pipelines.running.mapping import MapWork, last_line, plan_of
from pipelines.running.reader import ImageReader
from pipelines.running.workers import resources_of

TOGETHER = 32  # images of a task, at most
TASKS = 32  # in flight, at least: so that workers that join find something to do
TRIED = 20  # rows, of which the first that can be read tells the size of the others


@dataclass(frozen=True, eq=False)
class Read:
    """So many images that were read together, some of which may be none."""

    images: Handle
    count: int


@dataclass(frozen=True)
class Pictures:
    """The images of some rows: where each is among those of all handles in order. Several handles, if some were read again."""

    numbers: tuple[int, ...]
    handles: tuple[Handle, ...]


class ReadWork(MapWork):
    """Each row of a set is read, shown to the pools of one stage, and its record goes to the shards.

    `pools`: those of the stage; `spared`: those of them that a row goes on without, if they fail it too often. `row(unit)` is
    what a unit is about, `number(unit)` which of the set's rows that is.
    """

    def __init__(
        self,
        rows: Sequence[ImageRow],
        shards: Shards,
        pools: Sequence[str],
        in_flight: int,
        spared: Collection[str] = (),
    ) -> None:
        super().__init__(shards)
        self.rows, self.stages, self.in_flight = rows, ((READER,), tuple(pools)), in_flight
        self.spared = frozenset(spared)
        self.missing = shards.missing()
        self.images: dict[Unit, tuple[Read, int]] = {}  # which of those that were read together it is

    @abstractmethod
    def show(self, ask: Ask, pictures: Pictures) -> Call:
        """What to call for the wanted units of a batch at a pool of the stage."""

    @abstractmethod
    def answered(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        """What a worker of such a pool has returned. As `Work.took`."""

    @abstractmethod
    def record(self, number: int, group: int) -> Record:
        """Of a row that is settled."""

    @abstractmethod
    def given_up(self, number: int, group: int, reason: str) -> Record:
        """Of a row that could not be read, or that no worker could answer."""

    def unanswered(self, unit: Unit, pool: str, reason: str) -> None:
        """A pool that is spared failed a unit too often."""
        raise NotImplementedError

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        count, together = len(self.missing), max(1, min(TOGETHER, self.in_flight // TASKS))
        tasks = [min(together, count - first) for first in range(0, count, together)]
        sweeps = Sweeps(self.stages, {0: tasks}, batched=len(self.stages), spared=self.spared)
        return plan_of({"rows": sweeps}, self.in_flight, store_bytes)

    def call(self, ask: Ask) -> Call:
        if ask.pool == READER:
            return Call(ImageReader.read, (tuple(self.row(unit) for unit in ask.batch),), returns=2)
        found = [self.images[unit] for unit in ask.wanted]
        reads = list(dict.fromkeys(read for read, _ in found))
        firsts = dict(zip(reads, accumulate((read.count for read in reads), initial=0), strict=False))
        numbers = tuple(firsts[read] + place for read, place in found)
        return self.show(ask, Pictures(numbers, tuple(read.images for read in reads)))

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        return self._read(ask, outcome) if ask.pool == READER else self.answered(ask, outcome)

    def heed(self, notice: Notice) -> None:
        """A row is written down once it is settled or given up."""
        match notice:
            case Settled(key):
                self.shards.add(self.record(self.missing[key.group], key.group))
            case Quarantined(key, _, message):
                self.shards.add(self.given_up(self.missing[key.group], key.group, last_line(message)))
            case Spared(unit, pool, message):
                self.unanswered(unit, pool, last_line(message))
            case Released(key):
                self.images.pop(Unit(key.stream, key.step, key.group, 0), None)

    def number(self, unit: Unit) -> int:
        return self.missing[unit.group]

    def row(self, unit: Unit) -> ImageRow:
        return self.rows[self.number(unit)]

    def _read(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        """A batch was read; a row of which there is no image is given up, with its reason."""
        results: dict[Unit, int | Refused] = {}
        read = Read(outcome.payloads[0], len(ask.batch))
        for place, (unit, (problem, num_bytes)) in enumerate(zip(ask.batch, outcome.value, strict=True)):
            if unit not in ask.wanted:
                continue
            if problem:
                results[unit] = Refused(Failure("raised", problem), retry=False)
                continue
            self.images[unit], results[unit] = (read, place), num_bytes
        return results


def reader_pool(table: Pool) -> PoolSpec:
    """The workers that read."""
    return PoolSpec(READER, ImageReader, {}, table.size, min_size=table.min, max_size=table.max, **resources_of(table))


def first_size(rows: Sequence[ImageRow]) -> tuple[int, int] | None:
    """Height and width of the first image that can be read; None if none of the first ones can."""
    for row in rows[:TRIED]:
        try:
            height, width, _ = read_image(row).shape
        except (ValueError, StorageError):
            continue
        return height, width
    return None
