"""Whether a local folder holds a whole model: what it names is there, and of a kind that EchoRay reads. Loads no tensor and no torch.

The driver and the doctor ask before any worker starts, workers again before they load. What the weights' names and shapes
must be is asked in actors/models/weights.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.families.image import ImageFacts
from actors.families.registry import DUAL_ENCODERS, PIPELINES, VLMS, image_family, vlm_family
from actors.families.vlm import VlmFacts
from actors.mistake import Mistake
from actors.models.files import AGAIN, Fields, read_object, tensors_in, tensors_of
from actors.models.kinds import Kind
from actors.models.path import PIPELINE_MARKER, VLM_MARKER

SCHEDULER = "FlowMatchEulerDiscreteScheduler"

NUMBERS = {  # in the config of a part: what its class computes with and does not look at
    "scheduler": ("num_train_timesteps", "shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
    "vae": ("scaling_factor",),
}

OWN = "for another, bring a family along: docs/adding.md"

VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
"""Files that hold a tokenizer's vocabulary: one of these sets."""


def pipeline_parts(folder: Path) -> dict[str, tuple[str, str]]:
    """The parts that model_index.json names: name -> library and class. Raises Mistake for an index that is none."""
    return {
        name: (value[0], value[1])
        for name, value in read_object(folder / PIPELINE_MARKER).items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)
    }


def pipeline_facts(folder: Path, family: str | None = None) -> type[ImageFacts]:
    """The family of a pipeline's folder: the one that the recipe names, else that of its class. Raises Mistake where there is none."""
    if family:
        return image_family(family)
    kind = read_object(folder / PIPELINE_MARKER).get("_class_name")
    if not isinstance(kind, str):
        raise Mistake(f"{folder / PIPELINE_MARKER} names no _class_name of a pipeline: {AGAIN}")
    if kind not in PIPELINES:
        raise Mistake(f"{folder} is a {kind}; EchoRay has families for {', '.join(PIPELINES)} ({OWN})")
    return PIPELINES[kind]


def vlm_facts(folder: Path, family: str | None = None) -> type[VlmFacts]:
    """The family of a VLM's folder: the one that the recipe names, else that of its type. Raises Mistake where there is none."""
    if family:
        return vlm_family(family)
    kind = read_object(folder / VLM_MARKER)["model_type"]
    if kind not in VLMS:
        raise Mistake(f"{folder} is a {kind}; EchoRay reads VLMs of the types {', '.join(VLMS)} ({OWN})")
    return VLMS[kind]


def check_pipeline(folder: Path, family: str | None = None) -> None:
    """Raises Mistake unless the folder holds a whole pipeline of a class that EchoRay, or the recipe's own family, reads."""
    facts = pipeline_facts(folder, family)
    kind = read_object(folder / PIPELINE_MARKER).get("_class_name")
    parts = pipeline_parts(folder)
    if absent := [name for name in facts.parts if name not in parts]:
        raise Mistake(f"{folder / PIPELINE_MARKER} names no {absent[0]}, without which a {kind} does not draw: {AGAIN}")
    for name in parts:
        if name.startswith("text_encoder") and name.replace("text_encoder", "tokenizer") not in parts:
            raise Mistake(f"{folder / PIPELINE_MARKER} names {name} but not its tokenizer: {AGAIN}")
    if (found := parts["transformer"][1]) != facts.transformer:
        raise Mistake(
            f"{folder / PIPELINE_MARKER} says {kind}, but its transformer is a {found}, not a {facts.transformer}: {AGAIN}"
        )
    for name, (library, part) in parts.items():
        _check_part(folder, name, library, part)


def check_vlm(folder: Path, family: str | None = None) -> None:
    """Raises Mistake unless the folder holds a whole vision-language model of a type that EchoRay, or the recipe's own family, reads."""
    if obstacle := vlm_facts(folder, family).obstacle(read_object(folder / VLM_MARKER)):
        raise Mistake(f"{folder} {obstacle}")
    check_model_part(folder)
    if (folder / "adapter_config.json").is_file():
        read_object(folder / "adapter_config.json")
        tensors_in(folder / "adapter_model.safetensors")
    _check_readers(folder)
    if not _has_chat_template(folder):
        raise Mistake(f"{folder} has no chat template: put one in chat_template.jinja beside its tokenizer")


def check_dual_encoder(folder: Path, family: str | None = None) -> None:
    """Raises Mistake unless the folder holds a whole CLIP or SigLIP, which need no family."""
    kind = read_object(folder / VLM_MARKER)["model_type"]
    if kind not in DUAL_ENCODERS:
        raise Mistake(f"{folder} is a {kind}; models of the types {', '.join(DUAL_ENCODERS)} are expected here")
    check_model_part(folder)
    _check_readers(folder)


CHECKS: dict[Kind, Callable[[Path, str | None], None]] = {
    "pipeline": check_pipeline,
    "vlm": check_vlm,
    "dual_encoder": check_dual_encoder,
}
"""By a folder's kind, what raises Mistake unless it is whole."""


def image_processor(folder: Path) -> Mapping[str, Any]:
    """The settings of a VLM's image processor; empty where there are none."""
    if (folder / "preprocessor_config.json").is_file():
        return read_object(folder / "preprocessor_config.json")
    nested = folder / "processor_config.json"
    found = read_object(nested).get("image_processor") if nested.is_file() else None
    return found if isinstance(found, Fields) else {}


def _check_readers(folder: Path) -> None:
    """Raises Mistake unless tokenizer and image processor are there."""
    check_tokenizer(folder)
    if not image_processor(folder):
        raise Mistake(
            f"{folder} says nothing of its image processor (preprocessor_config.json): download the whole model"
        )


def check_model_part(folder: Path) -> None:
    """Raises Mistake unless the folder holds a config and all weights of a model that is not quantised."""
    if read_object(folder / "config.json").get("quantization_config"):
        raise Mistake(
            f"{folder} is quantised (quantization_config in config.json), which EchoRay does not read: take the model as it"
            " was before, in 16 bits"
        )
    tensors_of(folder)


def check_tokenizer(folder: Path) -> None:
    """Raises Mistake unless the folder holds a tokenizer's settings and its vocabulary."""
    read_object(folder / "tokenizer_config.json")
    for names in VOCABULARIES:
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            for file in files:
                _check_vocabulary(file)
            return
    choices = ", or ".join(" and ".join(names) for names in VOCABULARIES[:2])
    raise Mistake(f"{folder}/ holds no vocabulary of a tokenizer ({choices}): download the whole model")


def _check_part(folder: Path, name: str, library: str, kind: str) -> None:
    part = folder / name
    if library not in ("diffusers", "transformers"):
        raise Mistake(
            f"{folder / PIPELINE_MARKER}: {name} is of {library!r}; EchoRay loads no code that a model brings along"
        )
    if not part.is_dir():
        raise Mistake(
            f"{folder / PIPELINE_MARKER} names {name} ({kind}), but there is no folder {part}: download the whole model"
        )
    if name == "scheduler":
        _check_numbers(part / "scheduler_config.json", name)
        if kind != SCHEDULER:
            raise Mistake(
                f"{part} is a {kind}: EchoRay draws along the sigmas of a {SCHEDULER}; write that class into model_index.json"
                " and the settings of the model's makers into scheduler_config.json"
            )
    elif name.startswith("tokenizer"):
        check_tokenizer(part)
    elif name in ("feature_extractor", "image_processor", "processor"):
        read_object(part / "preprocessor_config.json")
    else:
        check_model_part(part)
        _check_numbers(part / "config.json", name)


def _check_numbers(file: Path, part: str) -> None:
    """Raises Mistake for a field of the part's NUMBERS that is there and no number above 0."""
    fields = read_object(file)
    for name in NUMBERS.get(part, ()):
        value = fields.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and value > 0):
            raise Mistake(f"{file}: {name} = {value!r} is no number above 0: mend it there, or {AGAIN}")


def _check_vocabulary(file: Path) -> None:
    """JSON is read; of other files only the size is looked at."""
    if file.suffix != ".json":
        if file.stat().st_size == 0:
            raise Mistake(f"{file} is empty: {AGAIN}")
        return
    found = read_object(file)
    words = found["model"].get("vocab") if file.name == "tokenizer.json" else found
    if not words:
        raise Mistake(f"{file} holds no vocabulary: {AGAIN}")


def _has_chat_template(folder: Path) -> bool:
    described = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        try:
            template.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise Mistake(f"{template} is not UTF-8: save it so, or {AGAIN}") from None
        return True
    return any(bool(read_object(folder / name).get("chat_template")) for name in described if (folder / name).is_file())
