"""`caption` without models: a set of pictures, and the program with a writer in plain numpy.

`python -m tests.support.caption_world FOLDER RECIPE` is a process of it that is killed, once at each of some moments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from actors.messages import WriteRequest, Written
from cluster.tasks import PoolSpec
from pipelines import caption
from pipelines.caption import program
from pipelines.captioning.pools import pool_specs
from pipelines.data.images import ImageRow
from pipelines.recipe.programs.caption import CaptionRecipe
from pipelines.recipe.programs.writer import WRITER
from pipelines.run_folder.shards import Shards
from pipelines.running.reader import ImageReader
from tests.support.kills import Moment, kill_at_each

ROWS = 23
BROKEN, MUTE, TERSE, LONG = 11, 3, 7, 15  # half a file; and what the writer says nothing, little and much about
STEP = 9  # of grey, from one picture to the next
RECIPE = """
[run]
seed = 5

[data]
images = "{folder}/pictures"

[writer]
model = "plain/writer"

[captions]
min_words = 3
max_words = 12
heldout_share = 0.3
shard_rows = 4
in_flight = 64
"""


def make_caption_world(folder: Path) -> Path:
    """Grey pictures, each of its own brightness, and a recipe; returns the recipe's path."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for row in range(ROWS):
        Image.fromarray(np.full((8, 8, 3), STEP * row, np.uint8)).save(pictures / f"{row:02d}.png")
    broken = pictures / f"{BROKEN:02d}.png"
    broken.write_bytes(broken.read_bytes()[:40])
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder))
    return recipe


def words_of(request: WriteRequest, brightness: int) -> str:
    """What the writer says of a picture: two of a brightness get the same words only by the same seed."""
    number = brightness // STEP
    if number == TERSE:
        return "grey"
    more = " and grey" * 20 if number == LONG else ""
    return f"a grey square\nof brightness {brightness}, drawn as number {request.seed % 1000}{more}"


@dataclass
class PlainWriter:
    """As `WriterActor`. Notes the brightness of each picture that it describes in the file `log`, a line each."""

    log: Path | None = None

    def write(self, requests: tuple[WriteRequest, ...], *images: Sequence[np.ndarray]) -> tuple[Written, ...]:
        """As `WriterActor.write`."""
        flat = [image_HWC for block in images for image_HWC in block]
        return tuple(self._write(request, flat[request.turns[0].parts[0]]) for request in requests)  # type: ignore[index]

    def _write(self, request: WriteRequest, image_HWC: np.ndarray) -> Written:
        brightness = int(image_HWC.mean())
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{brightness}\n")
        if brightness // STEP == MUTE:
            return Written(None, "the server said nothing", tries={"429": 2, "nothing": 1})
        text = words_of(request, brightness)
        return Written(text, tokens=len(text.split()))


def main_with(**writer: object) -> Callable[..., int]:
    """The program with such a writer; places, sizes and limits are the recipe's."""

    def pools(recipe: CaptionRecipe, rows: Sequence[ImageRow]) -> list[PoolSpec]:
        specs = pool_specs(recipe, rows)
        return [replace(spec, actor=PlainWriter, kwargs=writer) if spec.name == WRITER else spec for spec in specs]

    return program(pools)


MOMENTS = {
    "the first images are read": Moment(ImageReader, "read", 1),
    "an image is described": Moment(PlainWriter, "_write", 11, kept=4),
    "a file was written": Moment(Shards, "_write", 3, after=True, kept=6),
    "the prompts are written": Moment(caption, "write_prompts", 1, kept=18),
    "the report is written": Moment(caption, "write_captions_report", 1, kept=18),
}

if __name__ == "__main__":
    kill_at_each(MOMENTS.values(), lambda log: main_with(log=log), Path(sys.argv[1]), sys.argv[2])
