"""The file of a LoRA at a path, and what its header says of it. Importable without torch, so that a driver can ask early."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from actors.models.files import tensors_of

WEIGHTS = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
IN_A_FOLDER = (WEIGHTS, f"adapter/{WEIGHTS}", PEFT_WEIGHTS)  # of diffusers; of a checkpoint; of peft
DOWN = (".lora_A.", ".lora_down.", ".lora.down.")  # how writers name the matrix whose rows are the rank
CARD, CARD_SAYS = "README.md", re.compile(r"^base_model:\s*(\S+)\s*$", re.MULTILINE)
PREFIX = re.compile(r"^(base_model\.model\.)?(transformer\.|diffusion_model\.)?")  # of a module's name, by who wrote it
OURS = ("transformer.", "base_model.model.")  # of diffusers and peft: what follows is the name in the transformer
SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}  # the matrix of a LoRA, and the axis of the weight that it goes with
PIECE_BYTES = 2**24


@dataclass(frozen=True)
class AdapterFile:
    """`rank` is None where layers have different ones or none is found; `alpha` None where the file does not say it."""

    path: str
    sha256: str
    rank: int | None
    alpha: float | None


def find_adapter(place: str) -> AdapterFile:
    """The LoRA at a path: a .safetensors file, a folder of diffusers or peft, a checkpoint, or a run folder (its newest one).

    Raises ValueError that says what such a path may be.
    """
    file = _file_at(Path(place))
    try:
        with safe_open(file, framework="np") as opened:
            names, metadata = list(opened.keys()), opened.metadata() or {}
            shapes = [opened.get_slice(name).get_shape() for name in names if any(mark in name for mark in DOWN)]
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as safetensors ({error}): it may be cut, or a pointer of Git LFS"
        ) from None
    ranks = {shape[0] for shape in shapes if shape}
    if not ranks:
        raise ValueError(f"{file} holds no LoRA: none of its {len(names)} tensors is named {' or '.join(DOWN)}")
    rank = ranks.pop() if len(ranks) == 1 else None
    return AdapterFile(str(file.absolute()), _sha256(file), rank, _alpha(config_of(file, metadata)))


def base_of(file: str) -> str | None:
    """The model that a LoRA says it is of: in its description, or in the card beside it. Raises ValueError for one that cannot be read."""
    with safe_open(file, framework="np") as opened:
        said = config_of(Path(file), opened.metadata() or {}).get("base_model_name_or_path")
    card = Path(file).with_name(CARD)
    if not said and card.is_file():
        found = CARD_SAYS.search(card.read_text(encoding="utf-8", errors="replace"))
        said = found[1] if found else None
    return said or None


def misfit(file: str, base: Path) -> str:
    """Why a LoRA was made for another model than the folder's transformer, by the names and shapes of its layers.

    Empty if it fits, or if that cannot be seen without loading it: other names than diffusers' and peft's, a model of the hub.
    Raises Mistake for a folder without weights.
    """
    if not (base / "transformer").is_dir():
        return ""
    weights = tensors_of(base / "transformer")
    with safe_open(file, framework="np") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys() if name.startswith(OURS)}  # noqa: SIM118
    for name, shape in shapes.items():
        for side, axis in SIDES.items():
            if not name.endswith(side):
                continue
            layer = PREFIX.sub("", name).removesuffix(side) + ".weight"
            if layer not in weights:
                return f"it was made for another model than {base}, which has no layer {layer.removesuffix('.weight')}"
            if weights[layer].shape[axis] != shape[axis]:
                return f"it was made for another model than {base}: {name} is {shape}, and the layer {list(weights[layer].shape)}"
    return ""


def config_of(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Peft's description of the LoRA: in the header of diffusers' file, or beside peft's. Empty if there is none.

    Raises ValueError for one that cannot be read.
    """
    if text := metadata.get("lora_adapter_metadata"):
        found = _object(text.encode(), f"the description of the LoRA in {file}")
        return {name.removeprefix("transformer."): value for name, value in found.items()}
    beside = file.with_name(PEFT_CONFIG)
    return _object(beside.read_bytes(), str(beside)) if file.name == PEFT_WEIGHTS and beside.is_file() else {}


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}): write it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no JSON object but a {type(found).__name__}: write it again")
    return found


def _alpha(config: Mapping[str, Any]) -> float | None:
    alpha = config.get("lora_alpha")
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        raise ValueError(f"its description says lora_alpha = {alpha!r}, which is no number: mend it there")
    return None if alpha is None else float(alpha)


def _file_at(path: Path) -> Path:
    if path.is_file():
        return path
    runs = sorted(path.glob("checkpoints/step-*/manifest.json"), reverse=True)
    for folder in (path, *(manifest.parent for manifest in runs[:1])):
        for name in IN_A_FOLDER:
            if (folder / name).is_file():
                return folder / name
    what = "the folder holds no LoRA" if path.is_dir() else "there is no such file or folder"
    raise ValueError(
        f"{what}. Give a .safetensors file, a folder with {WEIGHTS} or {PEFT_WEIGHTS}, a checkpoint such as "
        "runs/x/checkpoints/step-000050, or a run folder with checkpoints in it"
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
