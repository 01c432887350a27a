"""The rewards, by the name that a recipe gives as `reward.type`: each is known by its options. Loads no torch."""

from __future__ import annotations

from actors.reward.kinds.aesthetic import AestheticOptions
from actors.reward.kinds.clip_score import ClipScoreOptions
from actors.reward.kinds.infer_score import InferScoreOptions
from actors.reward.kinds.jpeg_size import JpegSizeOptions
from actors.reward.kinds.promptecho import PromptEchoOptions
from actors.reward.kinds.remote import RemotePromptEchoOptions, RemoteVqaScoreOptions
from actors.reward.kinds.text_rendering import TextRenderingOptions
from actors.reward.kinds.vqa_score import VqaScoreOptions
from actors.reward.options import RewardOptions

REWARDS: dict[str, type[RewardOptions]] = {
    "aesthetic": AestheticOptions,
    "clip_score": ClipScoreOptions,
    "infer_score": InferScoreOptions,
    "jpeg_size": JpegSizeOptions,
    "promptecho": PromptEchoOptions,
    "remote_promptecho": RemotePromptEchoOptions,
    "remote_vqa_score": RemoteVqaScoreOptions,
    "text_rendering": TextRenderingOptions,
    "vqa_score": VqaScoreOptions,
}
