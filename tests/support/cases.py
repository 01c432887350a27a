"""Small inputs with one fault each, as they are found in the wild: model folders made from the toy models.

Each maker takes a fresh folder. `MODELS` names every folder, the key of the recipe that it is given to, and words that the refusal
says. Prompt files and recipes: tests/support/files.py.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TOY_MODELS = Path(__file__).resolve().parents[2] / "toy" / "models"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"
JUDGE_WEIGHTS, ENCODER_WEIGHTS = "model.safetensors", "text_encoder/model.safetensors"
TRANSFORMER_WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"

Tensors = dict[str, torch.Tensor]
Fault = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A model folder that cannot be used: the toy model `kind` with `fault`. What is said of it has all of the words `told`."""

    kind: str
    fault: Fault
    told: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key of a recipe that names such a folder."""
        return {"image": "policy.model", "judge": "reward.model"}[self.kind]

    def make(self, folder: Path) -> Path:
        """Writes the folder."""
        shutil.copytree(TOY_MODELS / self.kind, folder)
        self.fault(folder)
        return folder


def changed(file: str, change: Callable[[Tensors], Tensors]) -> Fault:
    """Other tensors in a file of weights."""

    def fault(folder: Path) -> None:
        save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})

    return fault


def without(part: str) -> Callable[[Tensors], Tensors]:
    """Without the first tensor whose name holds `part`."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != _first(tensors, part)}


def renamed(part: str) -> Callable[[Tensors], Tensors]:
    """The first tensor whose name holds `part` has another name."""
    return lambda tensors: {
        name + ".old" if name == _first(tensors, part) else name: tensor for name, tensor in tensors.items()
    }


def reshaped(part: str) -> Callable[[Tensors], Tensors]:
    """The first tensor whose name holds `part` has one row more."""
    return lambda tensors: {
        name: torch.cat([tensor, tensor[:1]]) if name == _first(tensors, part) else tensor
        for name, tensor in tensors.items()
    }


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    """Every name begins with `prefix`."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def with_one_more(tensors: Tensors) -> Tensors:
    """A tensor that no model knows."""
    return {**tensors, "zz_unknown.weight": torch.zeros(2)}


def stored_as(kind: torch.dtype, part: str) -> Callable[[Tensors], Tensors]:
    """The first tensor whose name holds `part` in another type of number."""
    return lambda tensors: {
        name: tensor.to(kind) if name == _first(tensors, part) else tensor for name, tensor in tensors.items()
    }


def not_a_number(tensors: Tensors) -> Tensors:
    """The first tensor is NaN."""
    return {**tensors, min(tensors): tensors[min(tensors)] * float("nan")}


def written(file: str, content: str | bytes | Any) -> Fault:
    """Another content of a file: text, bytes, or what becomes JSON."""

    def fault(folder: Path) -> None:
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        (folder / file).write_bytes(data if isinstance(data, bytes) else data.encode())

    return fault


def edited(file: str, **values: Any) -> Fault:
    """Other values in a JSON file; None takes a key out."""

    def fault(folder: Path) -> None:
        fields = {**json.loads((folder / file).read_text()), **values}
        written(file, {key: value for key, value in fields.items() if value is not None})(folder)

    return fault


def gone(*names: str) -> Fault:
    """Without these files or folders."""

    def fault(folder: Path) -> None:
        for path in (folder / name for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return fault


def moved(file: str, name: str) -> Fault:
    """A file under another name in its folder."""
    return lambda folder: _ignore((folder / file).rename((folder / file).with_name(name)))


def cut(file: str, length: int) -> Fault:
    """The first bytes of a file, as a broken download leaves it."""
    return lambda folder: _ignore((folder / file).write_bytes((folder / file).read_bytes()[:length]))


def lengthened(file: str) -> Fault:
    """A file with more at its end, as a download leaves it that was resumed at the wrong byte."""
    return lambda folder: _ignore((folder / file).write_bytes((folder / file).read_bytes() + bytes(100)))


def misplaced(file: str, **values: Any) -> Fault:
    """The last tensor of a file's header has other values."""

    def fault(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header[list(header)[-1]] |= values
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return fault


def pickled(file: str, name: str) -> Fault:
    """The weights as a pickle."""

    def fault(folder: Path) -> None:
        torch.save(load_file(folder / file), (folder / file).with_name(name))
        (folder / file).unlink()

    return fault


def sharded(file: str, stem: str) -> Fault:
    """Two shards and their index; the second one is missing."""

    def fault(folder: Path) -> None:
        tensors = load_file(folder / file)
        names = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
        where = {name: names[n % 2] for n, name in enumerate(sorted(tensors))}
        kept = {name: tensor for name, tensor in tensors.items() if where[name] == names[0]}
        save_file(kept, (folder / file).with_name(names[0]), metadata={"format": "pt"})
        index = (folder / file).with_name(f"{stem}.safetensors.index.json")
        index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
        (folder / file).unlink()

    return fault


def adapter_only(file: str) -> Fault:
    """What a LoRA's training leaves: an adapter, and no weights of the model."""

    def fault(folder: Path) -> None:
        where = (folder / file).parent
        (folder / file).rename(where / "adapter_model.safetensors")
        (where / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))

    return fault


def scheduler(kind: str) -> Fault:
    """Another scheduler in the pipeline."""

    def fault(folder: Path) -> None:
        edited("scheduler/scheduler_config.json", _class_name=kind)(folder)
        edited("model_index.json", scheduler=["diffusers", kind])(folder)

    return fault


QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True}

MODELS: dict[str, Case] = {
    # weights that do not fit
    "judge_tensor_missing": Case("judge", changed(JUDGE_WEIGHTS, without("q_proj")), (JUDGE_WEIGHTS, "q_proj")),
    "judge_tensor_renamed": Case("judge", changed(JUDGE_WEIGHTS, renamed("fc1.weight")), (JUDGE_WEIGHTS, "fc1.weight")),
    "judge_head_missing": Case("judge", changed(JUDGE_WEIGHTS, without("lm_head")), (JUDGE_WEIGHTS, "lm_head")),
    "judge_shape": Case("judge", changed(JUDGE_WEIGHTS, reshaped("v_proj")), (JUDGE_WEIGHTS, "v_proj")),
    "judge_prefixed": Case("judge", changed(JUDGE_WEIGHTS, prefixed("base_model.model.")), ("base_model.model.",)),
    "judge_tensor_extra": Case("judge", changed(JUDGE_WEIGHTS, with_one_more), (JUDGE_WEIGHTS, "zz_unknown")),
    "encoder_tensor_missing": Case("image", changed(ENCODER_WEIGHTS, without("q_proj")), ("text_encoder", "q_proj")),
    "encoder_tensor_renamed": Case("image", changed(ENCODER_WEIGHTS, renamed("fc2")), ("text_encoder", "fc2")),
    "encoder_tensor_extra": Case("image", changed(ENCODER_WEIGHTS, with_one_more), ("text_encoder", "zz_unknown")),
    "encoder_shape": Case("image", changed(ENCODER_WEIGHTS, reshaped("token_embedding")), ("text_encoder",)),
    "encoder_prefixed": Case("image", changed(ENCODER_WEIGHTS, prefixed("module.")), ("text_encoder", "module.")),
    "transformer_tensor_missing": Case("image", changed(TRANSFORMER_WEIGHTS, without("to_q")), ("transformer", "to_q")),
    "transformer_tensor_extra": Case(
        "image", changed(TRANSFORMER_WEIGHTS, with_one_more), ("transformer", "zz_unknown")
    ),
    "transformer_shape": Case("image", changed(TRANSFORMER_WEIGHTS, reshaped("to_k")), ("transformer", "to_k")),
    "transformer_prefixed": Case(
        "image", changed(TRANSFORMER_WEIGHTS, prefixed("model.diffusion_model.")), ("model.diffusion_model.",)
    ),
    "vae_tensor_missing": Case("image", changed(VAE_WEIGHTS, without("decoder")), ("vae", "decoder")),
    "vae_tensor_extra": Case("image", changed(VAE_WEIGHTS, with_one_more), ("vae", "zz_unknown")),
    # files of weights that are none, or cannot be read
    "judge_lfs": Case("judge", written(JUDGE_WEIGHTS, LFS_POINTER), (JUDGE_WEIGHTS, "Git LFS")),
    "transformer_lfs": Case("image", written(TRANSFORMER_WEIGHTS, LFS_POINTER), ("transformer", "Git LFS")),
    "vae_lfs": Case("image", written(VAE_WEIGHTS, LFS_POINTER), ("vae", "Git LFS")),
    "transformer_cut": Case("image", cut(TRANSFORMER_WEIGHTS, 5000), ("transformer", "cut")),
    "transformer_cut_in_data": Case("image", cut(TRANSFORMER_WEIGHTS, 2_000_000), ("transformer", "cut")),
    "judge_empty": Case("judge", written(JUDGE_WEIGHTS, b""), (JUDGE_WEIGHTS, "cut")),
    "judge_huge_header": Case(
        "judge", written(JUDGE_WEIGHTS, struct.pack("<Q", 2**60) + b"{}"), (JUDGE_WEIGHTS, "safetensors")
    ),
    "judge_header_no_json": Case(
        "judge", written(JUDGE_WEIGHTS, struct.pack("<Q", 8) + b"not json"), (JUDGE_WEIGHTS, "safetensors")
    ),
    "judge_more_at_the_end": Case("judge", lengthened(JUDGE_WEIGHTS), (JUDGE_WEIGHTS, "damaged")),
    "judge_offsets_below_0": Case("judge", misplaced(JUDGE_WEIGHTS, data_offsets=[-4, 0]), (JUDGE_WEIGHTS, "damaged")),
    "judge_offsets_twice": Case("judge", misplaced(JUDGE_WEIGHTS, data_offsets=[0, 4]), (JUDGE_WEIGHTS, "damaged")),
    "judge_shape_for_other_bytes": Case("judge", misplaced(JUDGE_WEIGHTS, shape=[3]), (JUDGE_WEIGHTS, "damaged")),
    "judge_shard_missing": Case("judge", sharded(JUDGE_WEIGHTS, "model"), ("model-00002-of-00002.safetensors",)),
    "judge_fp16": Case("judge", moved(JUDGE_WEIGHTS, "model.fp16.safetensors"), ("model.fp16.safetensors", "rename")),
    "encoder_fp16": Case(
        "image", moved(ENCODER_WEIGHTS, "model.fp16.safetensors"), ("text_encoder", "model.fp16.safetensors")
    ),
    "judge_bin": Case("judge", pickled(JUDGE_WEIGHTS, "pytorch_model.bin"), ("pytorch_model.bin", "safetensors")),
    "transformer_bin": Case(
        "image", pickled(TRANSFORMER_WEIGHTS, "diffusion_pytorch_model.bin"), ("diffusion_pytorch_model.bin",)
    ),
    "judge_no_weights": Case("judge", gone(JUDGE_WEIGHTS), ("safetensors",)),
    "judge_adapter_only": Case("judge", adapter_only(JUDGE_WEIGHTS), ("adapter",)),
    "transformer_adapter_only": Case("image", adapter_only(TRANSFORMER_WEIGHTS), ("transformer", "adapter")),
    "judge_quantised": Case("judge", edited("config.json", quantization_config=QUANTISED), ("quantised",)),
    "encoder_quantised": Case(
        "image", edited("text_encoder/config.json", quantization_config=QUANTISED), ("text_encoder", "quantised")
    ),
    "judge_int8": Case("judge", changed(JUDGE_WEIGHTS, stored_as(torch.int8, "q_proj.weight")), ("quantised", "I8")),
    "transformer_uint8": Case(
        "image", changed(TRANSFORMER_WEIGHTS, stored_as(torch.uint8, "to_q.weight")), ("quantised", "U8")
    ),
    "encoder_float8": Case(
        "image", changed(ENCODER_WEIGHTS, stored_as(torch.float8_e4m3fn, "q_proj.weight")), ("quantised", "F8_E4M3")
    ),
    # parts that are named and not there
    "tokenizer_missing": Case("image", gone("tokenizer_2"), ("tokenizer_2",)),
    "tokenizer_empty": Case("image", gone("tokenizer/tokenizer.json"), ("tokenizer/", "tokenizer.json")),
    "encoder_missing": Case("image", gone("text_encoder_2"), ("text_encoder_2",)),
    "encoder_named_only": Case(
        "image", edited("model_index.json", text_encoder_3=["transformers", "T5EncoderModel"]), ("text_encoder_3",)
    ),
    "scheduler_missing": Case("image", gone("scheduler"), ("scheduler",)),
    "vae_missing": Case("image", gone("vae"), ("vae",)),
    "transformer_missing": Case("image", gone("transformer"), ("transformer",)),
    "judge_no_tokenizer": Case("judge", gone("tokenizer.json"), ("tokenizer.json",)),
    "judge_no_template": Case("judge", gone("chat_template.jinja"), ("chat template",)),
    "judge_no_processor": Case(
        "judge", gone("preprocessor_config.json", "processor_config.json"), ("preprocessor_config.json",)
    ),
    # descriptions that are none
    "index_no_json": Case("image", written("model_index.json", "{"), ("model_index.json", "JSON")),
    "index_a_list": Case("image", written("model_index.json", "[]"), ("model_index.json", "object")),
    "index_no_class": Case("image", edited("model_index.json", _class_name=None), ("model_index.json", "_class_name")),
    "index_latin1": Case("image", written("model_index.json", '{"ä": 1}'.encode("latin-1")), ("model_index.json",)),
    "index_other_class": Case("image", edited("model_index.json", _class_name="KolorsPipeline"), ("KolorsPipeline",)),
    "index_deep": Case("image", written("model_index.json", "[" * 100_000), ("model_index.json",)),
    "config_no_json": Case("image", written("transformer/config.json", "{"), ("transformer/config.json", "JSON")),
    "config_a_list": Case("image", written("text_encoder/config.json", "[1]"), ("text_encoder/config.json", "object")),
    "config_lfs": Case("image", written("vae/config.json", LFS_POINTER), ("vae/config.json", "Git LFS")),
    "judge_config_a_list": Case("judge", written("config.json", "[]"), ("config.json", "object")),
    "judge_other_type": Case("judge", edited("config.json", model_type="mllama"), ("mllama",)),
    "judge_no_type": Case("judge", edited("config.json", model_type=None), ("model_type",)),
    "index_of_another_family": Case(
        "image", edited("model_index.json", _class_name="FluxPipeline"), ("FluxPipeline", "SD3Transformer2DModel")
    ),
    "judge_parts_a_list": Case("judge", edited("config.json", text_config=[1]), ("config.json", "text_config")),
    "judge_other_dtype": Case("judge", edited("config.json", dtype="float99"), ("config.json", "float99")),
    "judge_template_latin1": Case(
        "judge", written("chat_template.jinja", "ä".encode("latin-1")), ("chat_template.jinja", "UTF-8")
    ),
    "scheduler_shift_text": Case(
        "image", edited("scheduler/scheduler_config.json", shift="2"), ("scheduler_config.json", "shift = '2'")
    ),
    "scheduler_shift_0": Case(
        "image", edited("scheduler/scheduler_config.json", shift=0), ("scheduler_config.json", "shift = 0")
    ),
    "vae_scale_text": Case("image", edited("vae/config.json", scaling_factor="x"), ("vae", "scaling_factor = 'x'")),
    # parts that another sampler needs
    "scheduler_dpm": Case("image", scheduler("DPMSolverMultistepScheduler"), ("DPMSolverMultistepScheduler",)),
    "scheduler_heun": Case("image", scheduler("FlowMatchHeunDiscreteScheduler"), ("FlowMatchHeunDiscreteScheduler",)),
}
"""Name -> a folder that must be refused before any worker starts, with exit code 2."""

NAN_TRANSFORMER = Case("image", changed(TRANSFORMER_WEIGHTS, not_a_number), ("transformer",))
"""Can only be found by drawing."""


def _first(names: Iterable[str], part: str) -> str:
    return next(name for name in sorted(names) if part in name)


def _ignore(result: object) -> None:
    """The end of a statement that is an expression."""
