"""The files of a model's folder: descriptions in JSON, and weights in safetensors by their headers. Loads no tensor and no torch.

Every fault is a `Mistake` that names the file and says what to do: a Git LFS pointer, a broken download, weights of another kind.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.mistake import Mistake

LFS_POINTER = b"version https://git-lfs"
LARGEST_JSON = 2**28  # bytes: the largest tokenizers have some tens of MB
LARGEST_HEADER = 100_000_000  # bytes: the format's own limit
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
DTYPES = FLOATS | {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""What tensors of a model that is not quantised are stored as, with the bytes of a number; its weights as FLOATS."""
WEIGHTS = (".weight", ".bias")  # how the names of weights end; others may be tables of indices

AGAIN = "download it again"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its type in the format's own words, its shape, and where it is."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


class Fields(dict[str, Any]):
    """A JSON object that says which file lacks a key, where `[]` asks for it. Its objects are of this kind too."""

    def __init__(self, fields: Mapping[str, Any], file: Path) -> None:
        super().__init__(
            {key: Fields(value, file) if isinstance(value, dict) else value for key, value in fields.items()}
        )
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise Mistake(f"{self.file} has no field {key!r}, which is needed: write it there, or {AGAIN}")


def read_object(file: Path) -> Fields:
    """The JSON object in a file. Raises Mistake where there is none."""
    if not file.is_file():
        raise Mistake(f"there is no file {file}: download the whole model")
    try:
        data = file.read_bytes() if file.stat().st_size <= LARGEST_JSON else None
    except OSError as error:
        raise Mistake(f"{file} cannot be read: {error.strerror}") from None
    if data is None:
        raise Mistake(f"{file} is no description of a model: it has more than {LARGEST_JSON // 2**20} MiB")
    if data.startswith(LFS_POINTER):
        raise Mistake(_pointer(file))
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Mistake(f"{file} is no JSON in UTF-8 ({error}): {AGAIN}") from None
    if not isinstance(found, dict):
        raise Mistake(f"{file} holds no JSON object but a {type(found).__name__}: {AGAIN}")
    return Fields(found, file)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the libraries load from a component's folder. Raises Mistake where they are not there.

    Where a folder has one file and an index of several, transformers takes the one file and diffusers the several.
    """
    of_diffusers = "_class_name" in read_object(folder / "config.json")
    name = "diffusion_pytorch_model.safetensors" if of_diffusers else "model.safetensors"
    single, index = folder / name, folder / f"{name}.index.json"
    if index.is_file() and (of_diffusers or not single.is_file()):
        return _shards(index)
    if single.is_file():
        return [single]
    raise Mistake(_why_no_weights(folder, name))


def tensors_of(folder: Path) -> dict[str, Stored]:
    """The tensors in a component's weights, by name. Raises Mistake as `weight_files` and `tensors_in`."""
    return {name: stored for file in weight_files(folder) for name, stored in tensors_in(file).items()}


def tensors_in(file: Path) -> dict[str, Stored]:
    """The tensors in a safetensors file, by name. Raises Mistake for a file that is none, is cut, or is quantised.

    A file is the length of its header in eight bytes, the header in JSON, and the bytes of the tensors.
    """
    size, header = _header(file)
    try:
        entries = json.loads(header.decode("utf-8"))
        tensors = {
            name: Stored(entry["dtype"], tuple(map(int, entry["shape"])), file)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
        places = {name: tuple(map(int, entries[name]["data_offsets"])) for name in tensors}
        ends = max((end for _, end in places.values()), default=0)
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        raise Mistake(f"{file} is no safetensors file, its header is none: {AGAIN}") from None
    whole = 8 + len(header) + ends
    if size < whole:
        raise Mistake(f"{file} is cut: it has {size} of {whole} bytes; {AGAIN}")
    for name, stored in tensors.items():
        if stored.dtype not in (FLOATS if name.endswith(WEIGHTS) else DTYPES):
            raise Mistake(
                f"{file} is quantised: {name} is stored as {stored.dtype}; EchoRay reads weights of 16 bits or more, take the"
                " model as it was before"
            )
    if size > whole or not _one_after_the_other(tensors, places):
        raise Mistake(f"{file} is damaged: its tensors do not fill it one after the other; {AGAIN}")
    return tensors


def _one_after_the_other(tensors: Mapping[str, Stored], places: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether tensors lie at their `places` (first byte, one past the last) without gaps, each in as many bytes as it needs."""
    last = 0
    for name in sorted(places, key=places.__getitem__):
        begin, end = places[name]
        if begin != last or end - begin != math.prod(tensors[name].shape) * DTYPES[tensors[name].dtype]:
            return False
        last = end
    return True


def _header(file: Path) -> tuple[int, bytes]:
    """The size of the file, and its header."""
    try:
        with file.open("rb") as stream:
            size, first = file.stat().st_size, stream.read(8)
            if first and LFS_POINTER.startswith(first):
                raise Mistake(_pointer(file))
            if len(first) < 8:
                raise Mistake(f"{file} is cut: it has {size} bytes; {AGAIN}")
            (length,) = struct.unpack("<Q", first)
            if length > LARGEST_HEADER:
                raise Mistake(f"{file} is no safetensors file: {AGAIN}")
            header = stream.read(length)
    except OSError as error:
        raise Mistake(f"{file} cannot be read: {error.strerror}") from None
    if len(header) < length:
        raise Mistake(f"{file} is cut within its header: it has {size} bytes; {AGAIN}")
    return size, header


def _shards(index: Path) -> list[Path]:
    names = read_object(index)["weight_map"]
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise Mistake(f"{index} has no weight_map of file names: {AGAIN}")
    files = [index.with_name(Path(name).name) for name in sorted(set(names.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        raise Mistake(
            f"{index.parent} lacks {len(absent)} of the {len(files)} files that {index.name} names, such as"
            f" {absent[0] if absent else 'any'}: download the whole model"
        )
    return files


def _pointer(file: Path) -> str:
    return f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in the folder, or {AGAIN}"


def _why_no_weights(folder: Path, name: str) -> str:
    """What a folder holds in place of weights."""
    others = sorted(path.name for path in folder.iterdir())
    variants = [
        other for other in others if other.endswith(".safetensors") and "." in other.removesuffix(".safetensors")
    ]
    pickles = [other for other in others if other.endswith(PICKLES)]
    if "adapter_config.json" in others:
        return (
            f"{folder} holds an adapter (adapter_config.json) and no weights of the model: merge it into its base model "
            "with peft's merge_and_unload, and save that"
        )
    if variants:
        return (
            f"{folder} holds weights of a variant only ({variants[0]}), which EchoRay does not read: rename the files to"
            f" {name} and the like, without the variant, in their index too, or download the model without a variant"
        )
    if pickles:
        return (
            f"{folder} holds pickled weights only ({pickles[0]}), which EchoRay does not read, since a pickle can run code:"
            " load the model with its library where you trust it, and save_pretrained writes safetensors"
        )
    return f"{folder} holds no weights ({name}, or {name}.index.json and its files): download the whole model"
