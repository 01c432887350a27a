"""Text encoders at full size on a GPU: what a caption costs while they stay there, and while they are parked on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from actors.device import pick_device, pick_dtype
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.parking import Parked
from bench.full_size import IMAGE_MODELS, default_dtype, save_narrow
from bench.full_size_judge import fill
from bench.gpu_case import FAMILIES, GIB, Case
from bench.gpu_watch import see
from pipelines.preflight.memory.architectures import load
from pipelines.preflight.memory.models import ENCODER, KNOWN


def measure(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same captions both ways; each stay of parked encoders brings them to the device once."""
    device = pick_device(case.device)
    dtype = pick_dtype("auto", device)
    with TemporaryDirectory() as temporary:
        save_narrow(IMAGE_MODELS[case.family], case.family, Path(temporary))
        for way in ("keep", "park"):
            yield way, encode(case, way, Path(temporary) / "narrow", device, dtype)


def encode(case: Case, way: str, folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of one caption, of another, and of eight together."""
    options = LoadOptions(device, dtype, decoder=False, max_sequence_length=64, text_encoders=way)  # type: ignore[arg-type]
    family = load_family(str(folder), options)
    if not case.tiny:
        put_full_encoders(family, case.family)
        if way == "park":
            family.parked = Parked([getattr(family.pipeline, name) for name in full_encoders(case.family)], device)
    parts = [getattr(family.pipeline, name) for name in family.encoder_parts]
    size = sum(p.numel() * p.element_size() for part in parts if part is not None for p in part.parameters())
    figures = {"gib": size / GIB}
    for what, count in (("first", 1), ("next", 1), ("eight", 8)):
        new = captions(len(family._captions), count)
        seen = see(lambda new=new: family.prepare(new), device)  # type: ignore[misc]
        figures |= {f"{what}_seconds": seen.seconds, "reserved_gib": seen.reserved / GIB}
    return figures


def captions(seen: int, count: int) -> list[str]:
    """So many others than the first `seen`, of words that every tokenizer here knows."""
    return [" ".join(["a", *["red"] * (1 + i % 4), *["circle"] * (1 + i // 4)]) for i in range(seen, seen + count)]


def full_encoders(name: str) -> dict[str, str]:
    """The architecture of each text encoder of a family, by its name in the pipeline."""
    return {part: architecture for part, architecture in KNOWN[FAMILIES[name]][1].items() if part.startswith(ENCODER)}


def put_full_encoders(family: Family, name: str) -> None:
    """Text encoders of full size with random weights in the place of the narrow ones."""
    for part, architecture in full_encoders(name).items():
        made = load(architecture)
        config = transformers.AutoConfig.for_model(**made["config"])
        with family.device, default_dtype(family.dtype):
            encoder = fill(getattr(transformers, made["class"])(config)).to(family.dtype)
        setattr(family.pipeline, part, encoder)
