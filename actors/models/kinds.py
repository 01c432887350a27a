"""The kinds of model folders, and what a recipe says of a model. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["pipeline", "vlm", "dual_encoder"]
"""An image model's pipeline of diffusers; of transformers a vision-language model, and a CLIP or SigLIP."""


@dataclass(frozen=True)
class NamedModel:
    """A model's folder or hub name, its kind, and its family if the recipe says one (`package.module:Name`)."""

    model: str
    kind: Kind
    family: str | None = None
