"""The kinds of model folders, and what a recipe says of models. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from actors.options import Device, Table

Kind = Literal["pipeline", "vlm", "dual_encoder"]
"""An image model's pipeline of diffusers; of transformers a vision-language model, and a CLIP or SigLIP."""


@dataclass(frozen=True)
class NamedModel:
    """A model's folder or hub name, its kind, and its family if the recipe says one (`package.module:Name`)."""

    model: str
    kind: Kind
    family: str | None = None


class ModelOptions(Table):
    """What is said by all options of work for which a model may be loaded."""

    models: ClassVar[dict[str, Kind]] = {}
    """Its keys that name a model's folder or hub name, and the kind of each."""

    @property
    def where(self) -> Device:
        """The device that is asked for."""
        found: Device = getattr(self, "device", "cpu")
        return found

    def named_models(self) -> dict[str, NamedModel]:
        """By their keys, the models that it names."""
        family = getattr(self, "family", None)
        return {
            key: NamedModel(getattr(self, key), kind, family if kind == "vlm" else None)
            for key, kind in self.models.items()
        }

    def in_words(self, table: str) -> str:
        """What a message calls it: the key that names its model, else its type. `table`: where the recipe has it."""
        key = next(iter(self.models), "type")
        return f"{table}.{key} = {getattr(self, key)!r}"

    def on(self, device: str) -> Self:
        """The same on this device, if it has a model that needs one."""
        return self.model_copy(update={"device": device}) if "device" in type(self).model_fields else self
