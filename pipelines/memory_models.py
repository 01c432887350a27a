"""What models consist of, without loading them: parts with their configs and sizes, from a folder or from what is known of a hub name."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.model_path import PIPELINE_MARKER, VLM_MARKER
from pipelines import architectures
from pipelines.config import UserError

TRANSFORMER, VAE = "transformer", "vae"

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
PIPELINES: dict[str, tuple[str, dict[str, str]]] = {
    "stabilityai/stable-diffusion-3.5-medium": _SD3,
    "black-forest-labs/FLUX.1-dev": _FLUX,
    "Tongyi-MAI/Z-Image": _Z_IMAGE,
    "Tongyi-MAI/Z-Image-Turbo": _Z_IMAGE,
    "Qwen/Qwen-Image": _QWEN_IMAGE,
    "Qwen/Qwen-Image-2512": _QWEN_IMAGE,
}
"""Hub name -> the pipeline's class, and the architecture of each of its parts."""

QWEN2_5_PIXELS, QWEN3_PIXELS = (56 * 56, 16_384 * 28 * 28), (256 * 256, 4096 * 4096)
JUDGES: dict[str, tuple[str, tuple[int, int]]] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2.5-vl-7b", QWEN2_5_PIXELS),
    "Qwen/Qwen3-VL-8B-Instruct": ("qwen3-vl-8b", QWEN3_PIXELS),
    "Qwen/Qwen3-VL-32B-Instruct": ("qwen3-vl-32b", QWEN3_PIXELS),
}
"""Hub name -> architecture, and the fewest and most pixels that its image processor makes of an image."""


@dataclass(frozen=True)
class Part:
    """A component: the class, its config, and how many numbers it holds, parameters and buffers of its files."""

    kind: str
    config: Mapping[str, Any]
    numel: int


@dataclass(frozen=True)
class ImageModel:
    """A text-to-image pipeline by the name of its class."""

    pipeline: str
    transformer: Part
    encoders: dict[str, Part]
    vae: Part


@dataclass(frozen=True)
class Judge:
    """A vision-language model. `settings` are its image processor's; known hub names have only `size`."""

    model: Part
    settings: Mapping[str, Any]

    @property
    def text(self) -> Mapping[str, Any]:
        """The language model's config; older files have it at the top."""
        return self.model.config.get("text_config") or self.model.config

    @property
    def vision(self) -> Mapping[str, Any]:
        """The vision tower's config."""
        return self.model.config.get("vision_config") or {}


def image_model(path: str) -> ImageModel:
    """The parts of `policy.model`. Raises UserError where the folder lacks files, or the hub name is not in PIPELINES."""
    folder = Path(path)
    if (folder / PIPELINE_MARKER).is_file():
        index = _read(folder / PIPELINE_MARKER)
        loaded = [name for name, of in index.items() if isinstance(of, list) and of[0] in ("diffusers", "transformers")]
        parts = {name: _part(folder / name) for name in loaded if (folder / name / "config.json").is_file()}
        if not {TRANSFORMER, VAE} <= parts.keys():
            raise UserError(
                f"policy.model = {path!r}: the folder has no {TRANSFORMER}/config.json or no {VAE}/config.json"
            )
        pipeline = index["_class_name"]
    elif path in PIPELINES:
        pipeline, names = PIPELINES[path]
        parts = {name: known(architecture) for name, architecture in names.items()}
    else:
        raise _unknown("policy.model", path, PIPELINES)
    encoders = {name: part for name, part in parts.items() if name.startswith("text_encoder")}
    return ImageModel(pipeline, parts[TRANSFORMER], encoders, parts[VAE])


def judge(path: str) -> Judge:
    """The VLM of `reward.model`. Raises UserError where the folder lacks files, or the hub name is not in JUDGES."""
    folder = Path(path)
    if (folder / VLM_MARKER).is_file():
        file = folder / "preprocessor_config.json"
        nested = folder / "processor_config.json"
        settings = _read(file) if file.is_file() else _read(nested)["image_processor"] if nested.is_file() else {}
        return Judge(_part(folder), settings)
    if path in JUDGES:
        name, (least, most) = JUDGES[path]
        return Judge(known(name), {"size": {"shortest_edge": least, "longest_edge": most}})
    raise _unknown("reward.model", path, JUDGES)


def known(architecture: str) -> Part:
    """A part of a known architecture."""
    found = architectures.load(architecture)
    return Part(found["class"], found["config"], found["parameters"] + found["buffers"])


def numel_of_files(folder: Path) -> int:
    """How many numbers a folder's safetensors files hold, by their headers. Raises UserError if there are none.

    A header is its length in eight bytes, then JSON with the `shape` of each tensor. Files of a second precision are left out: where
    an index lists the files, those that it lists count; else the one with the fewest dots in its name.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"), key=lambda path: path.name.count("."))
    if indices:
        files = sorted({folder / name for name in _read(indices[0])["weight_map"].values()})
    else:
        files = sorted(folder.glob("*.safetensors"), key=lambda path: (path.name.count("."), path.name))[:1]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"{folder} holds a config.json but not all of its .safetensors files: download the whole model")
    return sum(math.prod(entry["shape"]) for file in files for entry in _header(file).values())


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _part(folder: Path) -> Part:
    config = _read(folder / "config.json")
    kind = config.get("_class_name") or (config.get("architectures") or [""])[0]
    return Part(kind, config, numel_of_files(folder))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _unknown(key: str, path: str, known_names: Mapping[str, Any]) -> UserError:
    return UserError(
        f"{key} = {path!r}: its size is not known without its files. Download it and give the folder, or estimate with one of "
        f"{', '.join(known_names)}"
    )
