"""The prompt set that captions become: a part to train on and one that is held out, which share no caption."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from actors.seeds import seed_of
from pipelines.data.prompt_fields import id_of
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.json_files import replace
from pipelines.run_folder.shards import Record

FOLDER = "prompts"
TRAIN, HELDOUT = "train", "heldout"
COLUMNS = pa.schema({"id": pa.string(), "caption": pa.string(), "file_name": pa.string()})


@dataclass
class Prompts:
    """The prompts of each part, in the order of their images.

    A caption that came before is not taken again (`repeats`), and none that is in `apart_from` (`left_out`).
    """

    heldout_share: float
    apart_from: Collection[str] = ()
    parts: dict[str, list[Record]] = field(default_factory=lambda: {TRAIN: [], HELDOUT: []})
    repeats: int = 0
    left_out: int = 0
    _known: set[str] = field(default_factory=set)

    def add(self, caption: str, file_name: str) -> None:
        """A caption, and the image that it is of."""
        identity = id_of(caption)
        if identity in self._known:
            self.repeats += 1
            return
        self._known.add(identity)
        if caption in self.apart_from:
            self.left_out += 1
            return
        part = HELDOUT if is_held_out(caption, self.heldout_share) else TRAIN
        self.parts[part].append({"id": identity, "caption": caption, "file_name": file_name})

    def write(self, run: RunFolder) -> None:
        """prompts/train.parquet and prompts/heldout.parquet; no file for a part without a prompt."""
        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        for name, records in self.parts.items():
            path = folder / f"{name}.parquet"
            if records:
                replace(path, _parquet(records))
            else:
                path.unlink(missing_ok=True)


def is_held_out(caption: str, share: float) -> bool:
    """By the caption alone: another run over more images holds out what this one does."""
    return seed_of("heldout", caption) < share * 2**63


def _parquet(records: Iterable[Record]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records), COLUMNS), content)
    return content.getvalue()
