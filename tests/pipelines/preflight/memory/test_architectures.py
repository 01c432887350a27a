"""The known architectures, built on torch's meta device: they are what they say, and as large as published."""

import diffusers
import pytest
import torch
import transformers
from torch import nn

from pipelines.preflight.memory import architectures

# Billions of parameters as their makers or the model hub give them.
PUBLISHED = {
    "sd3.5-medium": 2.24,
    "flux.1-dev": 11.9,
    "qwen-image": 20.43,
    "z-image": 6.15,
    "t5-xxl": 4.76,
    "clip-l": 0.1237,
    "clip-g": 0.695,
    "qwen3-4b": 4.02,
    "qwen2.5-vl-3b": 3.75,
    "qwen2.5-vl-7b": 8.29,
    "qwen3-vl-2b": 2.13,
    "qwen3-vl-4b": 4.44,
    "qwen3-vl-8b": 8.77,
    "qwen3-vl-30b-a3b": 31.1,
    "qwen3-vl-32b": 33.4,
    "smolvlm-2.2b": 2.25,
    "smolvlm2-2.2b": 2.25,
}


def build(description: dict) -> nn.Module:
    library = {"diffusers": diffusers, "transformers": transformers}[description["library"]]
    kind = getattr(library, description["class"])
    with torch.device("meta"):
        if description["library"] == "diffusers":
            return kind(**description["config"])
        return kind._from_config(kind.config_class(**description["config"]))


@pytest.mark.parametrize("name", architectures.names())
def test_the_class_built_from_the_config_has_as_many_numbers_as_the_file_says(name: str) -> None:
    description = architectures.load(name)
    model = build(description)
    in_files = model.state_dict().keys()
    assert sum(parameter.numel() for parameter in model.parameters()) == description["parameters"]
    assert sum(b.numel() for key, b in model.named_buffers() if key in in_files) == description["buffers"]


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_the_numbers_are_those_that_are_published(name: str, billions: float) -> None:
    assert architectures.load(name)["parameters"] / 1e9 == pytest.approx(billions, rel=0.005)


def test_an_unknown_name_is_told_all_names() -> None:
    with pytest.raises(KeyError, match=r"sd3.5-large.*clip-g.*z-image"):
        architectures.load("sd3.5-large")
