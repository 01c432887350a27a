"""What a learner is given: its options, and what else a run says of it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from actors.diffusion.options import ImageModelOptions
from actors.families.registry import ImageFamily
from actors.messages import DrawTrial
from actors.options import Change, Count, File, Model, Positive
from actors.policy.objectives.options import ObjectiveOptions

Beta = Annotated[float, Field(ge=0, lt=1)]


class LearnerOptions(ImageModelOptions):
    """The trained model: LoRA on a frozen base, its optimiser, and how ranks share the work."""

    model: Model
    """The image model: a folder of diffusers, or a hub's name."""
    family: ImageFamily | None = None
    """A family of your own that reads the model, as `package.module:Name` (docs/adding.md); none: that of its pipeline."""
    zero_stage: Annotated[Literal[0, 1, 2, 3], Change.ANEW] = 1
    """The stage of DeepSpeed's ZeRO; 0: one rank of plain torch."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward instead of kept: slower, in less memory."""
    max_sequence_length: Annotated[int, Field(ge=0)] = 256
    """Tokens of a caption that the text encoder with the longest reach is given."""
    init_adapter: Annotated[File, Change.BY_CONTENT] = ""
    """A LoRA to begin from: a file, a folder, a checkpoint or a run; empty: a new one."""
    lora_rank: Count = 32
    """The rank of the LoRA's matrices."""
    lora_alpha: Annotated[float, Field(gt=0, le=1e6)] = 64.0
    """The LoRA counts lora_alpha / lora_rank times."""
    lora_targets: Literal["attention", "all"] = "attention"
    """Which linear layers of the transformer have one."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Change.RECORDED] = 3e-4
    """AdamW's, at its peak."""
    betas: Annotated[tuple[Beta, Beta], Change.RECORDED] = (0.9, 0.999)
    """AdamW's."""
    weight_decay: Annotated[float, Field(ge=0, le=1), Change.RECORDED] = 1e-4
    """AdamW's."""
    warmup_steps: Annotated[int, Field(ge=0), Change.RECORDED] = 0
    """Steps in which the learning rate grows linearly to its peak."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1), Change.RECORDED] = 1.0
    """As a share of learning_rate, reached linearly at the last step."""
    max_grad_norm: Annotated[Positive, Change.RECORDED] = 1.0
    """The gradient is scaled down to this norm."""
    micro_batch: Annotated[Count, Change.RECORDED] = 8
    """Samples of a rank per backward; gradients accumulate over a step."""


@dataclass(frozen=True)
class LearnerSettings:
    """A learner's options and its objective's, the sampler's steps and size, the run's seed and number of steps.

    `init_adapter` is the file of the LoRA that version 0 is, with its sha256; None: a new one.
    """

    policy: LearnerOptions
    objective: ObjectiveOptions
    num_steps: int
    guidance_scale: float
    height: int
    width: int
    seed: int
    total_steps: int
    init_adapter: tuple[str, str] | None = None

    @property
    def trial(self) -> DrawTrial:
        """What is tried before the first step."""
        return DrawTrial(self.policy.model, self.height, self.width, (self.num_steps,), self.guidance_scale)
