"""What a generator is given. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from actors.diffusion.options import ImageModelOptions
from actors.policy.objectives.options import ObjectiveOptions


@dataclass(frozen=True)
class GeneratorSettings:
    """The image model (path or hub name), how a worker holds it, and the objective, which says how samples for training are drawn."""

    model: str
    objective: ObjectiveOptions
    options: ImageModelOptions
    max_sequence_length: int = 256
