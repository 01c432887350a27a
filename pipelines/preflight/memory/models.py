"""What models consist of, without loading them: parts with their configs and sizes, from a folder or from what is known of a hub name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.families.image import Configs, ImageFacts, Network, Shape
from actors.families.registry import PIPELINES, VLMS, image_family, vlm_family
from actors.families.vlm import VlmFacts
from actors.mistake import Mistake
from actors.models.files import Fields, read_object, tensors_of
from actors.models.folder import (
    check_dual_encoder,
    check_pipeline,
    check_vlm,
    image_processor,
    pipeline_facts,
    pipeline_parts,
    vlm_facts,
)
from actors.models.kinds import Kind
from actors.models.path import PIPELINE_MARKER, VLM_MARKER
from pipelines.preflight.memory import architectures
from pipelines.recipe.errors import UserError
from pipelines.recipe.tables import Policy

if TYPE_CHECKING:
    from pipelines.recipe.reward import Reward

TRANSFORMER, VAE, ENCODER = "transformer", "vae", "text_encoder"

_DEFAULTS = Path(__file__).with_name("config_defaults.json")  # what classes of transformers and diffusers fill in
_NESTED = {
    "clip": {"text_config": "clip_text_model", "vision_config": "clip_vision_model"},
    "idefics3": {"text_config": "llama", "vision_config": "idefics3_vision"},
    "llava": {"text_config": "llama", "vision_config": "clip_vision_model"},
    "qwen2_5_vl": {"text_config": "qwen2_5_vl_text", "vision_config": "qwen2_5_vl_vision"},
    "qwen3_vl": {"text_config": "qwen3_vl_text", "vision_config": "qwen3_vl_vision"},
    "qwen3_vl_moe": {"text_config": "qwen3_vl_moe_text", "vision_config": "qwen3_vl_moe_vision"},
    "siglip": {"text_config": "siglip_text_model", "vision_config": "siglip_vision_model"},
    "smolvlm": {"text_config": "llama", "vision_config": "smolvlm_vision"},
}
"""The tables of a config, and the model_type of one that names none."""

_SD3_ENCODERS = {"text_encoder": "clip-l", "text_encoder_2": "clip-g", "text_encoder_3": "t5-xxl"}
_SD3 = ("StableDiffusion3Pipeline", {TRANSFORMER: "sd3.5-medium", **_SD3_ENCODERS, VAE: "vae-sd3"})
_FLUX = (
    "FluxPipeline",
    {TRANSFORMER: "flux.1-dev", "text_encoder": "clip-l", "text_encoder_2": "t5-xxl", VAE: "vae-flux"},
)
_Z_IMAGE = ("ZImagePipeline", {TRANSFORMER: "z-image", "text_encoder": "qwen3-4b", VAE: "vae-flux"})
_QWEN_IMAGE = (
    "QwenImagePipeline",
    {TRANSFORMER: "qwen-image", "text_encoder": "qwen2.5-7b-text-encoder", VAE: "vae-qwen-image"},
)
KNOWN: dict[str, tuple[str, dict[str, str]]] = {
    "stabilityai/stable-diffusion-3.5-medium": _SD3,
    "black-forest-labs/FLUX.1-dev": _FLUX,
    "Tongyi-MAI/Z-Image": _Z_IMAGE,
    "Tongyi-MAI/Z-Image-Turbo": _Z_IMAGE,
    "Qwen/Qwen-Image": _QWEN_IMAGE,
    "Qwen/Qwen-Image-2512": _QWEN_IMAGE,
}
"""Hub name -> the pipeline's class, and the architecture of each of its parts."""

_QWEN2_5 = {"size": {"shortest_edge": 56 * 56, "longest_edge": 16_384 * 28 * 28}}  # areas, in spite of their names
_QWEN3 = {"size": {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}}
_SMOL = {"size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384}}
JUDGES: dict[str, tuple[str, dict[str, Any]]] = {
    "HuggingFaceTB/SmolVLM-Instruct": ("smolvlm-2.2b", _SMOL),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": ("smolvlm2-2.2b", _SMOL),
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2.5-vl-3b", _QWEN2_5),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2.5-vl-7b", _QWEN2_5),
    "Qwen/Qwen3-VL-2B-Instruct": ("qwen3-vl-2b", _QWEN3),
    "Qwen/Qwen3-VL-4B-Instruct": ("qwen3-vl-4b", _QWEN3),
    "Qwen/Qwen3-VL-8B-Instruct": ("qwen3-vl-8b", _QWEN3),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": ("qwen3-vl-30b-a3b", _QWEN3),
    "Qwen/Qwen3-VL-32B-Instruct": ("qwen3-vl-32b", _QWEN3),
}
"""Hub name -> architecture, and the settings of its image processor that decide how large an image becomes."""


@dataclass(frozen=True)
class Part:
    """A component: the class, its config, and how many numbers it holds, parameters and buffers of its files."""

    kind: str
    config: Mapping[str, Any]
    numel: int


@dataclass(frozen=True)
class ImageModel:
    """A text-to-image pipeline: its family, and its parts."""

    family: type[ImageFacts]
    transformer: Part
    encoders: dict[str, Part]
    vae: Part

    @property
    def configs(self) -> Configs:
        """Of all parts, by their names."""
        parts = {TRANSFORMER: self.transformer, VAE: self.vae, **self.encoders}
        return {name: part.config for name, part in parts.items()}

    def shape(self, max_sequence_length: int) -> Shape:
        """What it makes of images and captions."""
        return self.family.shape(self.configs, max_sequence_length)

    def network(self, targets: str) -> Network:
        """The transformer with the LoRA of `policy.lora_targets`."""
        return self.family.network(self.transformer.config, targets == "all")

    def loaded(self, max_sequence_length: int) -> ImageModel:
        """Without what workers leave out."""
        absent = self.family.left_out(max_sequence_length)
        return replace(self, encoders={name: part for name, part in self.encoders.items() if name not in absent})


@dataclass(frozen=True)
class Judge:
    """A model that judges images. `settings` are its image processor's; known hub names have only those of sizes.

    `family`: of a VLM.
    """

    model: Part
    settings: Mapping[str, Any]
    kind: Kind = "vlm"
    family: type[VlmFacts] | None = None

    @property
    def text(self) -> Mapping[str, Any]:
        """The language model's config; older files have it at the top."""
        return self.model.config.get("text_config") or self.model.config

    @property
    def vision(self) -> Mapping[str, Any]:
        """The vision tower's config."""
        return self.model.config.get("vision_config") or {}


@dataclass(frozen=True)
class Models:
    """The models of a recipe; judges: by the pool of their reward, which may need none."""

    image: ImageModel
    judges: Mapping[str, Judge]


def models_to_estimate(policy: Policy, rewards: Mapping[str, Reward]) -> Models:
    """Of the policy, and of the rewards by their pools. Raises UserError where one is not whole, or not known."""
    judges = {
        pool: JUDGE_OF[reward.judge_kind](str(reward.judge), f"{pool}.model", reward.judge_family)
        for pool, reward in rewards.items()
        if reward.judge_kind
    }
    return Models(image_model(policy.model, policy.family), judges)


def image_model(path: str, family: str | None = None) -> ImageModel:
    """The parts of `policy.model`. Raises UserError where the folder holds no whole pipeline, or the hub name is not in KNOWN.

    `family`: of the user's own.
    """
    folder = Path(path)
    if (folder / PIPELINE_MARKER).is_file():
        try:
            check_pipeline(folder, family)
            facts = pipeline_facts(folder, family)
            names = [name for name in pipeline_parts(folder) if name in (TRANSFORMER, VAE) or name.startswith(ENCODER)]
            parts = {name: _part(folder / name) for name in names}
        except Mistake as error:
            raise UserError(f"policy.model = {path!r}: {error}") from None
    elif path in KNOWN:
        pipeline, of_known = KNOWN[path]
        facts = image_family(family) if family else PIPELINES[pipeline]
        parts = {name: known(architecture) for name, architecture in of_known.items()}
    else:
        raise _unknown("policy.model", path, KNOWN)
    encoders = {name: part for name, part in parts.items() if name.startswith(ENCODER)}
    return ImageModel(facts, parts[TRANSFORMER], encoders, parts[VAE])


def judge(path: str, key: str = "reward.model", family: str | None = None) -> Judge:
    """The VLM that `key` names. Raises UserError where the folder holds no whole VLM, or the hub name is not in JUDGES.

    `family`: of the user's own.
    """
    folder = Path(path)
    if (folder / VLM_MARKER).is_file():
        try:
            check_vlm(folder, family)
            return Judge(_part(folder), image_processor(folder), family=vlm_facts(folder, family))
        except Mistake as error:
            raise UserError(f"{key} = {path!r}: {error}") from None
    if path in JUDGES:
        name, settings = JUDGES[path]
        part = known(name)
        return Judge(part, settings, family=vlm_family(family) if family else VLMS[part.config["model_type"]])
    raise _unknown(key, path, JUDGES)


def dual_encoder(path: str, key: str = "reward.model", family: str | None = None) -> Judge:
    """The CLIP or SigLIP that `key` names. Raises UserError where the folder holds none; hub names are not known."""
    folder = Path(path)
    if not (folder / VLM_MARKER).is_file():
        raise UserError(f"{key} = {path!r}: its size is not known without its files. Download it and give the folder")
    try:
        check_dual_encoder(folder, family)
        return Judge(_part(folder), image_processor(folder), "dual_encoder")
    except Mistake as error:
        raise UserError(f"{key} = {path!r}: {error}") from None


JUDGE_OF: dict[Kind, Callable[[str, str, str | None], Judge]] = {"vlm": judge, "dual_encoder": dual_encoder}
"""By the kind of the model that judges, what finds it."""


def known(architecture: str) -> Part:
    """A part of a known architecture."""
    found = architectures.load(architecture)
    return Part(found["class"], found["config"], found["parameters"] + found["buffers"])


def filled(config: Fields) -> Fields:
    """A config with what it leaves to its class's defaults, as far as the estimate asks for it."""
    defaults: dict[str, dict[str, Any]] = json.loads(_DEFAULTS.read_text(encoding="utf-8"))
    kind = config.get("model_type", "")
    tables = {}
    for table, usual in _NESTED.get(kind, {}).items():
        nested = config.get(table) or {}
        if not isinstance(nested, dict):
            raise Mistake(f"{config.file}: {table} is no object: download it again")
        tables[table] = {**defaults.get(nested.get("model_type", usual), {}), **nested}
    if "text_config" in tables and not config.get("text_config"):
        tables = {**tables.pop("text_config"), **tables}  # older files have it at the top
    own = defaults.get(kind) or defaults.get(config.get("_class_name", ""), {})
    return Fields({**own, **tables, **{key: value for key, value in config.items() if key not in tables}}, config.file)


def _part(folder: Path) -> Part:
    config = filled(read_object(folder / "config.json"))
    kind = config.get("_class_name") or (config.get("architectures") or [""])[0]
    return Part(kind, config, sum(math.prod(tensor.shape) for tensor in tensors_of(folder).values()))


def _unknown(key: str, path: str, known_names: Mapping[str, Any]) -> UserError:
    return UserError(
        f"{key} = {path!r}: its size is not known without its files. Download it and give the folder, or estimate with one of "
        f"{', '.join(known_names)}"
    )
