"""The objectives, by the name that a recipe gives as `objective.type`: each is known by its options. Loads no torch."""

from __future__ import annotations

from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.flow_grpo_options import FlowGrpoOptions
from actors.policy.objectives.nft_options import NftOptions
from actors.policy.objectives.options import ObjectiveOptions

OBJECTIVES: dict[str, type[ObjectiveOptions]] = {
    "awm": AwmOptions,
    "flow_grpo": FlowGrpoOptions,
    "nft": NftOptions,
}
