"""What the options of every reward have, and what others must know of a reward. Loads no torch.

Recipe, worker and doctor read the same class: nobody asks which reward it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from actors.families.registry import VlmFamily
from actors.messages import Prompt
from actors.models.kinds import Kind, NamedModel
from actors.options import Count, Device, DType, Model, Table
from actors.vlm.limits import CHUNK_TOKENS

if TYPE_CHECKING:
    from actors.reward.reward import Reward
    from actors.vlm.dual_encoder import DualEncoder
    from actors.vlm.family import Vlm


class RewardOptions(Table):
    """The keys of every reward, and facts about it. A class stands beside the reward that it makes."""

    models: ClassVar[dict[str, Kind]] = {}
    """Its keys that name a model's folder or hub name, and the kind of each. The first one is the model that judges."""
    reads_caption: ClassVar[bool] = True
    """Whether a score depends on the caption."""
    explains: ClassVar[bool] = False
    """Whether it can say what each piece of a caption contributed (`Reward.explain`)."""

    type: str
    """Which reward: a name of the registry, or `package.module:Name`."""

    @property
    def where(self) -> Device:
        """The device that is asked for."""
        found: Device = getattr(self, "device", "cpu")
        return found

    @property
    def judge(self) -> str | None:
        """The model that judges; None if there is none."""
        return next((getattr(self, key) for key in self.models), None)

    @property
    def judge_kind(self) -> Kind | None:
        """Its kind."""
        return next(iter(self.models.values()), None)

    @property
    def judge_family(self) -> str | None:
        """The family of the user's own that reads it."""
        return getattr(self, "family", None)

    def named_models(self) -> dict[str, NamedModel]:
        """By their keys, the models that it names."""
        return {
            key: NamedModel(getattr(self, key), kind, self.judge_family if kind == "vlm" else None)
            for key, kind in self.models.items()
        }

    @property
    def below_zero(self) -> bool:
        """Whether all its scores are 0 or less, so that they have no product."""
        return False

    @property
    def example(self) -> Prompt:
        """A prompt that it can score: a worker tries it when it starts."""
        return Prompt("trial", "a red circle")

    def problem_of(self, prompt: Prompt) -> str:
        """Why it could never score a prompt, in words that follow on the prompt; empty if it can."""
        return ""

    def in_words(self, table: str = "reward") -> str:
        """What a message calls it: the key that names its model, else its type. `table`: where the recipe has it."""
        key = next(iter(self.models), "type")
        return f"{table}.{key} = {getattr(self, key)!r}"

    def predicted(self, caption: int) -> int:
        """How many tokens get logits when a caption has so many; the doctor and the planner ask."""
        return 0

    def on(self, device: str) -> Self:
        """The same on this device, if it has a model that needs one."""
        return self.model_copy(update={"device": device}) if "device" in type(self).model_fields else self

    def load(self) -> Reward:
        """The reward, frozen. Raises Mistake for what cannot be loaded or used. Only a worker calls it: it may load torch."""
        raise NotImplementedError


class VlmOptions(RewardOptions):
    """The keys of rewards that ask a vision-language model."""

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
    chunk_tokens: Count = CHUNK_TOKENS
    """Tokens whose logits are computed together, at most."""

    def load_vlm(self) -> Vlm:
        """The VLM, frozen. Raises Mistake where there is none, or none that a family covers."""
        from actors.device import pick_device, pick_dtype
        from actors.vlm.family import load_vlm

        place = pick_device(self.device)
        return load_vlm(self.model, pick_dtype(self.dtype, place), place, self.image_pixels, self.family)


class DualEncoderOptions(RewardOptions):
    """The keys of rewards that embed images by CLIP or SigLIP."""

    models: ClassVar[dict[str, Kind]] = {"model": "dual_encoder"}

    model: Model
    """The CLIP or SigLIP: a folder or a hub name."""

    device: Device = "auto"
    """Where it computes; `auto`: on the GPU that the worker holds, else on the CPU."""
    dtype: DType = "auto"
    """The type of its numbers; `auto`: bfloat16 on a GPU that has it, else float32."""

    def load_encoder(self) -> DualEncoder:
        """The model, frozen. Raises Mistake where there is none."""
        from actors.device import pick_device, pick_dtype
        from actors.vlm.dual_encoder import load_dual_encoder

        place = pick_device(self.device)
        return load_dual_encoder(self.model, pick_dtype(self.dtype, place), place)
