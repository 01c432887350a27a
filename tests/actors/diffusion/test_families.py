"""The contract of every registered family: our sampler is the diffusers pipeline, and our LoRA loads there."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from actors.diffusion import lora
from actors.diffusion.family import FAMILIES, LoadOptions, load_family
from actors.diffusion.lora import Merger
from actors.diffusion.sample import draw_latents, noise_of
from actors.messages import Adapter
from tests.tiny_sd3 import make_tiny_sd3

MAKERS = {"StableDiffusion3Pipeline": make_tiny_sd3}
CAPTION = "a red circle and a blue square"
PIXELS, STEPS, TOKENS = 32, 6, 3
OPTIONS = LoadOptions(torch.device("cpu"), torch.float32, decoder=True, max_sequence_length=TOKENS)


def test_every_family_has_a_tiny_model():
    assert MAKERS.keys() == FAMILIES.keys()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    return str(MAKERS[request.param](tmp_path_factory.mktemp("family")))


@pytest.fixture
def family(folder):
    return load_family(folder, OPTIONS)


@pytest.fixture(scope="module")
def pipeline(folder):
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(family, count=3):
    return torch.stack([noise_of(seed, family.latent_shape(PIXELS, PIXELS)) for seed in range(count)])


def ours(family, guidance_scale, count=3):
    prompted = family.prompted(CAPTION, guidance_scale).repeat(count)
    return draw_latents(family, noise(family, count), family.sigmas(STEPS, PIXELS, PIXELS), prompted)


def theirs(pipeline, family, guidance_scale, count=3, output_type="latent"):
    return pipeline(
        CAPTION, num_images_per_prompt=count, latents=noise(family, count), num_inference_steps=STEPS, guidance_scale=guidance_scale,
        height=PIXELS, width=PIXELS, output_type=output_type, max_sequence_length=TOKENS,
    ).images  # fmt: skip


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_the_sampler_equals_the_pipeline(family, pipeline, guidance_scale):
    torch.testing.assert_close(
        ours(family, guidance_scale), theirs(pipeline, family, guidance_scale), atol=1e-4, rtol=0
    )


def test_decoding_equals_the_pipeline(family, pipeline):
    images = family.decode(ours(family, 1.0))
    expected = np.stack([np.asarray(image) for image in theirs(pipeline, family, 1.0, output_type="pil")])
    assert images.dtype == torch.uint8
    assert np.abs(images.numpy().astype(int) - expected).max() <= 1


def test_sigmas_descend_from_one_to_zero(family):
    sigmas = family.sigmas(STEPS, PIXELS, PIXELS)
    assert len(sigmas) == STEPS + 1
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_velocity_is_float32_and_of_the_latents_shape(family):
    latents = noise(family, 1)
    velocity = family.velocity(latents, torch.tensor([0.4]), family.prompted(CAPTION, 1.0).conditions)
    assert velocity.dtype == torch.float32
    assert velocity.shape == latents.shape


def test_a_row_does_not_depend_on_its_batch(family):
    torch.testing.assert_close(ours(family, 1.0, count=1)[0], ours(family, 1.0, count=3)[0], atol=1e-5, rtol=0)


def test_captions_are_cut_at_a_word(family):
    caption = "a red circle " * 20
    cut = family.fit_caption(caption.strip())
    words = cut.split()
    assert 0 < len(words) < 60
    assert caption.split()[: len(words)] == words
    assert family.fit_caption(cut) == cut
    assert family.fit_caption(CAPTION) == CAPTION
    longer = " ".join(caption.split()[: len(words) + 1])
    assert family.fit_caption(longer) == cut


def test_conditions_repeat_row_by_row(family):
    parts = [family.prompted(caption, 1.0) for caption in ("a red circle", "a blue square")]
    for tensor in family.together(parts).repeat(2).conditions.tensors.values():
        assert torch.equal(tensor[0], tensor[1])
        assert not torch.equal(tensor[1], tensor[2])


def test_an_image_size_that_cannot_be_drawn_is_refused(family):
    with pytest.raises(ValueError, match="multiples of"):
        family.latent_shape(33, 32)


@pytest.fixture
def adapter(folder):
    """An adapter that is not zero."""
    trained = load_family(folder, OPTIONS)
    targets = trained.lora_targets["all"]
    lora.attach(trained.transformer, 4, 8.0, targets, seed=1)
    tensors = lora.as_numpy(lora.tensors(trained.transformer, lora.TRAINED))
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(0, 0.3, value.shape).astype(np.float32) for name, value in tensors.items()}
    return Adapter(1, 4, 8.0, targets, lora.sha256_of(tensors), tensors)


def test_a_fresh_adapter_changes_nothing_and_is_seeded(folder, family):
    before = ours(family, 1.0)
    lora.attach(family.transformer, 4, 8.0, family.lora_targets["attention"], seed=1)
    assert torch.equal(ours(family, 1.0), before)
    other = load_family(folder, OPTIONS)
    lora.attach(other.transformer, 4, 8.0, family.lora_targets["attention"], seed=1)
    assert lora.sha256_of(lora.as_numpy(lora.tensors(family.transformer, lora.TRAINED))) == lora.sha256_of(
        lora.as_numpy(lora.tensors(other.transformer, lora.TRAINED))
    )


def test_merged_equals_peft_and_the_pipelines_own_loading(folder, family, adapter, tmp_path):
    base = ours(family, 1.0)
    Merger(family.transformer).load(adapter)
    merged = ours(family, 1.0)
    assert (merged - base).abs().max() > 1e-2

    attached = load_family(folder, OPTIONS)
    lora.attach(attached.transformer, 4, 8.0, adapter.targets, seed=1)
    with torch.no_grad():
        for name, parameter in lora.tensors(attached.transformer, lora.TRAINED).items():
            parameter.copy_(torch.from_numpy(adapter.tensors[name]))
    torch.testing.assert_close(ours(attached, 1.0), merged, atol=1e-4, rtol=0)

    layers = {name: torch.from_numpy(value) for name, value in adapter.tensors.items()}
    attached.save_lora(tmp_path, layers, lora.config_of(attached.transformer))
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(theirs(pipeline, family, 1.0), merged, atol=1e-4, rtol=0)


def test_loading_another_adapter_leaves_nothing_of_the_first(family, adapter):
    before = {name: parameter.clone() for name, parameter in family.transformer.named_parameters()}
    merger = Merger(family.transformer)
    merger.load(adapter)
    zero = {name: np.zeros_like(value) for name, value in adapter.tensors.items()}
    merger.load(Adapter(2, 4, 8.0, adapter.targets, lora.sha256_of(zero), zero))
    for name, parameter in family.transformer.named_parameters():
        assert torch.equal(parameter, before[name])


def test_an_adapter_of_another_model_or_with_altered_weights_is_refused(family, adapter):
    merger = Merger(family.transformer)
    foreign = {f"elsewhere.{name}": value for name, value in adapter.tensors.items()}
    with pytest.raises(ValueError, match="binds to 0 of its"):
        merger.load(Adapter(3, 4, 8.0, adapter.targets, lora.sha256_of(foreign), foreign))
    with pytest.raises(ValueError, match="binds to 0 of its 0"):
        merger.load(Adapter(3, 4, 8.0, adapter.targets, lora.sha256_of({}), {}))
    with pytest.raises(ValueError, match="hash"):
        merger.load(Adapter(3, 4, 8.0, adapter.targets, "0" * 64, adapter.tensors))


def test_an_unknown_pipeline_is_named(folder, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "OtherPipeline", "_diffusers_version": "0.30.0"}')
    with pytest.raises(ValueError, match="OtherPipeline; EchoRay has families for StableDiffusion3Pipeline"):
        load_family(str(tmp_path), OPTIONS)
