"""What a generator is given. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.diffusion.options import ImageModelOptions
from actors.policy.objectives.options import ObjectiveOptions


@dataclass(frozen=True)
class GeneratorSettings:
    """The image model (path or hub name), how a worker holds it, and the objective, which says how samples for training are drawn.

    objective: None where nothing is drawn for training. family: of the user's own, as the recipe names it.
    """

    model: str
    objective: ObjectiveOptions | None
    options: ImageModelOptions
    max_sequence_length: int = 256
    family: str | None = None


@dataclass(frozen=True)
class LoraFiles:
    """A LoRA as the bytes of its files by name, whoever wrote them; `weights` is the one that holds them, `said` its place to people."""

    said: str
    weights: str
    files: Mapping[str, bytes]
