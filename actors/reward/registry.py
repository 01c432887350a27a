"""The rewards, by the name that a recipe gives as `reward.type`: each is known by its options. Loads no torch."""

from __future__ import annotations

from actors.reward.aesthetic import AestheticOptions
from actors.reward.clip_score import ClipScoreOptions
from actors.reward.jpeg_size import JpegSizeOptions
from actors.reward.options import RewardOptions
from actors.reward.promptecho import PromptEchoOptions
from actors.reward.vqa_score import VqaScoreOptions

REWARDS: dict[str, type[RewardOptions]] = {
    "aesthetic": AestheticOptions,
    "clip_score": ClipScoreOptions,
    "jpeg_size": JpegSizeOptions,
    "promptecho": PromptEchoOptions,
    "vqa_score": VqaScoreOptions,
}
