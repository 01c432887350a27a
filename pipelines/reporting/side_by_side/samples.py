"""Samples of several runs: the same prompts and the same noise, one run under the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipelines.reporting.side_by_side.run import Grid, Run
from pipelines.reporting.words import picture
from pipelines.run_folder.grids import GridRow

MOST_PROMPTS, MOST_IMAGES = 8, 5
LARGEST = 112  # pixels of an image's longer side
NOISE = ("run.seed", "data.heldout", "rollout.height", "rollout.width")
DRAWN = ("heldout.steps", "heldout.guidance_scales")


@dataclass(frozen=True)
class Strip:
    """One run's images of a prompt; `run` is None for the base."""

    run: Run | None
    words: str
    pictures: Sequence[dict[str, Any]]


def samples(runs: Sequence[Run]) -> list[tuple[str, list[Strip]]]:
    """(prompt, a strip for each run that drew it) of the prompts of at least two runs; the base first if it is one for all."""
    shown = [(run, {row.caption: row for row in run.latest.rows}) for run in runs if run.latest]
    counts = {caption: sum(caption in rows for _, rows in shown) for _, rows in shown for caption in rows}
    common = [caption for caption, count in counts.items() if count > 1][:MOST_PROMPTS]
    base = _one_base(runs)
    made = []
    for caption in common:
        strips = [Strip(None, "base", _pictures(row)) for row in (base.rows if base else ()) if row.caption == caption]
        strips += [
            Strip(run, f"step {run.latest.step:,}", _pictures(rows[caption]))
            for run, rows in shown
            if caption in rows and run.latest
        ]
        made.append((caption, strips))
    return made


def unlike(shown: Sequence[tuple[str, Sequence[Strip]]]) -> list[str]:
    """What makes samples of the same prompt differ beside the training, in sentences; if nothing does, that."""
    runs = {strip.run.name: strip.run for _, strips in shown for strip in strips if strip.run}.values()
    found = []
    for said, keys in (("Not from the same noise", NOISE), ("Not drawn in the same way", DRAWN)):
        if differ := [key for key in keys if not _one_value(runs, key)]:
            found.append(f"{said}: the runs differ in {' and '.join(differ)}.")
    return found or ["In a column the images of all runs begin from the same noise."]


def _one_base(runs: Sequence[Run]) -> Grid | None:
    """The base's images, if all runs began from one model and drew it alike."""
    keys = ("policy.model", "policy.init_adapter", *NOISE, *DRAWN)
    begun = [run for run in runs if run.base]
    return begun[0].base if begun and all(_one_value(begun, key) for key in keys) else None


def _one_value(runs: Iterable[Run], key: str) -> bool:
    """Whether a key is the same in all recipes; of a list, its first: at the first scale samples are drawn."""
    values = [run.value(key) for run in runs]
    return len({str(value[0] if isinstance(value, list) and value else value) for value in values}) <= 1


def _pictures(row: GridRow) -> list[dict[str, Any]]:
    return [picture(_small(image)) for image in row.images[:MOST_IMAGES]]


def _small(image: Image.Image) -> Image.Image:
    if max(image.size) <= LARGEST:
        return image
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    return small
