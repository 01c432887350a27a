"""What recipes say of a vision-language model, wherever one is named: which it is, where it computes, how it writes. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import model_validator

from actors.families.registry import VlmFamily
from actors.mistake import Mistake
from actors.models.kinds import Kind
from actors.options import Count, Device, DType, Model, NotNegative, Share, Table

if TYPE_CHECKING:
    from actors.vlm.family import Vlm
    from actors.vlm.frozen import FrozenVlm


class VlmTable(Table):
    """The keys of whatever loads a vision-language model."""

    models: ClassVar[dict[str, Kind]] = {"model": "vlm"}

    model: Model
    """The VLM: a folder or a hub name."""
    family: VlmFamily | None = None
    """A family of your own that reads the VLM, as `package.module:Name` (docs/adding.md); none: that of its type."""
    image_pixels: Count | None = None
    """The VLM sees at most so many pixels of an image; none: what its own processor says."""

    device: Device = "auto"
    """Where it computes; `auto`: on the GPU that the worker holds, else on the CPU."""
    dtype: DType = "auto"
    """The type of its numbers; `auto`: bfloat16 on a GPU that has it, else float32."""

    def load_vlm(self) -> Vlm:
        """The VLM, frozen. Raises Mistake where there is none, or none that a family covers."""
        from actors.device import pick_device, pick_dtype
        from actors.vlm.family import load_vlm

        place = pick_device(self.device)
        return load_vlm(self.model, pick_dtype(self.dtype, place), place, self.image_pixels, self.family)

    def load_writing(self) -> FrozenVlm:
        """The same, that can also write. Raises Mistake for a family of the user's own that cannot."""
        from actors.vlm.frozen import FrozenVlm

        vlm = self.load_vlm()
        if not isinstance(vlm, FrozenVlm):
            raise Mistake(f"family = {self.family!r} is no FrozenVlm, which alone can write")
        return vlm


class Drawing(Table):
    """The likeliest token always, or one that is drawn by a temperature."""

    temperature: NotNegative = 0.0
    """The logits are divided by it before a token is drawn; 0: the likeliest token, always."""
    top_p: Share = 1.0
    """A token is drawn from the fewest likeliest ones whose probabilities add up to this."""
    max_tokens: Count = 512
    """The most tokens of a text; one that is longer is cut there, and marked."""

    @model_validator(mode="after")
    def check_drawing(self) -> Self:
        """Raises ValueError for a `top_p` without a temperature."""
        if self.top_p < 1 and not self.temperature:
            raise ValueError(
                f"writer.top_p = {self.top_p:g} needs a writer.temperature above 0: without one no token is drawn"
            )
        return self


class Decoding(Drawing):
    """The same, or the best of several beams."""

    beams: Count = 1
    """Continuations that are followed side by side, of which the likeliest is taken."""

    @model_validator(mode="after")
    def check_beams(self) -> Self:
        """Raises ValueError for beams with a temperature."""
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"writer.beams = {self.beams} and writer.temperature = {self.temperature:g}: beams are not drawn; leave one of them out"
            )
        return self


def reads_like(token: str, answer: str) -> bool:
    """Whether a token is the answer, but for case and spaces."""
    return token.strip().casefold() == answer.strip().casefold()
