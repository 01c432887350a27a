"""The registries of families: image models by their pipeline, vision-language models by their type. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from actors.families.flux import FluxFacts
from actors.families.idefics3 import Idefics3Facts
from actors.families.image import ImageFacts
from actors.families.llava import LlavaFacts
from actors.families.qwen_image import QwenImageFacts
from actors.families.qwen_vl import QwenVlFacts
from actors.families.sd3 import Sd3Facts
from actors.families.vlm import VlmFacts
from actors.families.z_image import ZImageFacts
from actors.mistake import Mistake
from actors.options import read_by
from actors.plugins import class_named

PIPELINES: dict[str, type[ImageFacts]] = {
    "FluxPipeline": FluxFacts,
    "QwenImagePipeline": QwenImageFacts,
    "StableDiffusion3Pipeline": Sd3Facts,
    "ZImagePipeline": ZImageFacts,
}
"""Image models, by the pipeline's class that model_index.json names."""

VLMS: dict[str, type[VlmFacts]] = {
    "idefics3": Idefics3Facts,
    "llava": LlavaFacts,
    "qwen2_5_vl": QwenVlFacts,
    "qwen3_vl": QwenVlFacts,
    "qwen3_vl_moe": QwenVlFacts,
    "smolvlm": Idefics3Facts,
}
"""Vision-language models, by the model_type of their config."""

F = TypeVar("F")

DUAL_ENCODERS: tuple[str, ...] = ("clip", "siglip")
"""Models that embed images and texts, by the model_type of their config."""


def image_family(name: str) -> type[ImageFacts]:
    """The family that `policy.family` names. Raises Mistake where there is none."""
    return _whole(class_named(name, PIPELINES, ImageFacts, "policy.family"), name, "policy.family")


def vlm_family(name: str) -> type[VlmFacts]:
    """The family that a reward's `family` names. Raises Mistake where there is none."""
    return _whole(class_named(name, VLMS, VlmFacts, "reward.family"), name, "reward.family")


def _whole(facts: type[F], name: str, key: str) -> type[F]:
    """The facts. Raises Mistake if one is missing."""
    base = facts.__mro__[-2]
    wanted = [fact for fact in base.__annotations__ if not hasattr(facts, fact)]
    wanted += [
        said
        for said in ("shape", "network", "seen")
        if hasattr(base, said) and getattr(facts, said) is getattr(base, said)
    ]
    if wanted:
        raise Mistake(
            f'{key} = "{name}" does not say {", ".join(wanted)}, which {base.__module__}:{base.__name__} asks for'
        )
    return facts


def _if_there(find: Callable[[str], object]) -> AfterValidator:
    return read_by(lambda name: (find(name), name)[1])


ImageFamily = Annotated[str, _if_there(image_family)]
"""A key that names the facts of a family of image models: of the registry, or `package.module:Name`."""
VlmFamily = Annotated[str, _if_there(vlm_family)]
"""A key that names the facts of a family of vision-language models: of the registry, or `package.module:Name`."""
