"""What the estimate believes of image families, against the families themselves, tiny and of the real classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.diffusion.family import Family, LoadOptions, load_family
from pipelines.preflight.memory.models import image_model
from toy.random_models.families import MAKERS

TOKENS = 64  # of a caption, at most
OPTIONS = LoadOptions(torch.device("cpu"), torch.float32, decoder=False, max_sequence_length=TOKENS)
LONG = " ".join(["red circle"] * 100)


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(MAKERS[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def family(folder: str) -> Family:
    return load_family(folder, OPTIONS)


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_latents_and_tokens_of_an_image(folder: str, family: Family, size: tuple[int, int]) -> None:
    shape = image_model(folder).shape(TOKENS)
    channels, height, width = family.latent_shape(*size)
    assert shape.latents(*size) == channels * height * width
    assert shape.image_tokens(*size) == shape.padded(family.tokens(*size))
    assert shape.unit == family.scale * family.patch
    with pytest.raises(ValueError, match="multiples"):
        family.latent_shape(32, 32 + shape.unit // 2)


def test_tokens_of_a_caption_that_is_as_long_as_can_be(folder: str, family: Family) -> None:
    shape = image_model(folder).shape(TOKENS)
    embeds = family.prompted(family.fit_caption(LONG), 0.0).conditions.tensors["prompt_embeds"]
    assert embeds.shape[2] == shape.caption_width
    assert 0.8 * shape.text < embeds.shape[1] <= shape.text


def test_at_which_scales_guidance_doubles_the_batch(folder: str, family: Family) -> None:
    shape = image_model(folder).shape(TOKENS)
    for scale in (0.0, 0.5, 1.0, 1.5, 4.0):
        assert shape.doubles(scale) == family.needs_unconditional(scale)
    told = "guidance" in family.prompted("one", 2.0).conditions.tensors
    assert (shape.guidance == "told") == told


def test_the_longest_caption_that_a_family_takes(folder: str) -> None:
    longest = image_model(folder).shape(0).longest
    load_family(folder, replace(OPTIONS, max_sequence_length=longest))
    with pytest.raises(ValueError, match=f"at most {longest}"):
        load_family(folder, replace(OPTIONS, max_sequence_length=longest + 1))


def test_the_parts_and_their_sizes(folder: str, family: Family) -> None:
    """By the files' headers, as by the modules that are loaded from them; the VAE, which was left out here, by its own class."""
    model = image_model(folder)
    loaded = load_family(folder, replace(OPTIONS, decoder=True)).pipeline.components
    parts = {"transformer": model.transformer, "vae": model.vae, **model.encoders}
    assert {name for name, part in loaded.items() if isinstance(part, torch.nn.Module)} == parts.keys()
    for name, part in parts.items():
        in_files = loaded[name].state_dict().keys()
        buffers = [buffer for key, buffer in loaded[name].named_buffers() if key in in_files]
        assert part.numel == sum(tensor.numel() for tensor in (*loaded[name].parameters(), *buffers))
    assert tuple(model.encoders) == tuple(name for name in family.encoder_parts if loaded[name] is not None)


def test_a_folder_without_its_weights_is_refused(tmp_path: Path) -> None:
    folder = MAKERS["sd3"](tmp_path / "sd3")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"transformer holds no weights"):
        image_model(str(folder))
