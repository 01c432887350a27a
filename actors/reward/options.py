"""What the options of every reward have, and what others must know of a reward. Loads no torch.

Recipe, worker and doctor read the same class: nobody asks which reward it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from actors.messages import Prompt
from actors.models.kinds import Kind, ModelOptions
from actors.options import Count, Device, DType, Model
from actors.vlm.limits import CHUNK_TOKENS
from actors.vlm.options import VlmTable

if TYPE_CHECKING:
    from actors.reward.reward import Reward
    from actors.vlm.dual_encoder import DualEncoder


class RewardOptions(ModelOptions):
    """The keys of every reward, and facts about it. A class stands beside the reward that it makes.

    The first of its `models` is the one that judges.
    """

    reads_caption: ClassVar[bool] = True
    """Whether a score depends on the caption."""
    explains: ClassVar[bool] = False
    """Whether it can say what each piece of a caption contributed (`Reward.explain`)."""

    type: str
    """Which reward: a name of the registry, or `package.module:Name`."""

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
        """See `ModelOptions.in_words`."""
        return super().in_words(table)

    def predicted(self, caption: int) -> int:
        """How many tokens get logits when a caption has so many; the doctor and the planner ask."""
        return 0

    def load(self) -> Reward:
        """The reward, frozen. Raises Mistake for what cannot be loaded or used. Only a worker calls it: it may load torch."""
        raise NotImplementedError


class VlmOptions(VlmTable, RewardOptions):
    """The keys of rewards that ask a vision-language model."""

    chunk_tokens: Count = CHUNK_TOKENS
    """Tokens whose logits are computed together, at most."""


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
