"""The contract of every registered family: our sampler is the diffusers pipeline, whatever a row is batched with."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from actors.diffusion import family as family_module
from actors.diffusion.families.conditions import Conditions, Prompted
from actors.diffusion.family import load_family
from actors.families.registry import PIPELINES
from tests.actors.diffusion.drawing import (
    CAPTION,
    CAPTIONS,
    LONG,
    SIZE,
    STEPS,
    WIDE,
    copy_of,
    load,
    noise,
    options,
    ours,
    packed,
    prompted,
    theirs,
    unpacked,
)
from toy.random_models.families import MAKERS


@pytest.fixture
def family(loaded):
    """Shared: tests that change it take one of their own."""
    return loaded


@pytest.fixture
def own_family(loaded):
    return copy_of(loaded)


@pytest.fixture(scope="module")
def low(folder):
    """Shared."""
    return load(folder, dtype=torch.bfloat16)


def test_every_family_has_a_tiny_model(tmp_path):
    made = {DiffusionPipeline.load_config(str(make(tmp_path / name)))["_class_name"] for name, make in MAKERS.items()}
    assert made == PIPELINES.keys()


@pytest.mark.parametrize("size", [SIZE, WIDE])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 3.5])
def test_the_sampler_equals_the_pipeline(family, pipeline, guidance_scale, size):
    drawn = ours(family, [CAPTION] * 2, guidance_scale, size)
    expected = theirs(pipeline, family, [CAPTION] * 2, guidance_scale, size)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)


def test_the_guidance_scale_does_what_it_does_in_the_pipeline(family, pipeline):
    """Guards the test above: on these models the scale, the caption and the size of the picture are not lost in rounding."""
    drawn = ours(family, [CAPTION], 3.5)
    assert (drawn - ours(family, ["one"], 3.5)).abs().max() > 1e-2
    moved = (drawn - ours(family, [CAPTION], 1.0)).abs().max()
    if "guidance" in prompted(family, [CAPTION], 3.5).conditions.tensors or family.needs_unconditional(3.5):
        assert moved > 1e-2
    else:
        assert moved == 0


@pytest.mark.parametrize("guidance_scale", [0.0, 3.5])
def test_velocity_is_what_the_pipeline_steps_with(family, pipeline, monkeypatch, guidance_scale):
    """Sign, timestep and guidance at once: x + (sigma_next - sigma) * velocity is the step of diffusers' scheduler."""
    steps, step = [], pipeline.scheduler.step

    def recorded(model_output, timestep, sample, **kwargs):
        steps.append((model_output, timestep, sample))
        return step(model_output, timestep, sample, **kwargs)

    monkeypatch.setattr(pipeline.scheduler, "step", recorded)
    theirs(pipeline, family, CAPTIONS[:2], guidance_scale, WIDE)
    assert len(steps) == STEPS
    for model_output, timestep, sample in steps:
        sigma = (timestep / 1000).expand(2)
        with torch.no_grad():
            velocity = family.guided_velocity(
                unpacked(pipeline, sample, WIDE), sigma, prompted(family, CAPTIONS[:2], guidance_scale)
            )
        torch.testing.assert_close(velocity, unpacked(pipeline, model_output, WIDE), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [SIZE, WIDE])
def test_decoding_equals_the_pipeline(family, pipeline, size):
    images = family.decode(ours(family, [CAPTION] * 2, 0.0, size))
    pictures = theirs(pipeline, family, [CAPTION] * 2, 0.0, size, output_type="pil")
    expected = np.stack([np.asarray(image) for image in pictures])
    assert images.dtype == torch.uint8
    assert expected.std() > 1
    assert np.abs(images.numpy().astype(int) - expected).max() <= 1


def test_a_large_picture_is_decoded_in_the_vaes_tiles_and_a_small_one_is_not(own_family, monkeypatch):
    vae = own_family.pipeline.vae
    side = getattr(vae, "tile_sample_min_width", 64) + 8  # more than one tile
    size = (side, side)
    latents = noise(own_family, 2, size)
    untiled = own_family.decode(latents)
    monkeypatch.setattr(family_module, "UNTILED_PIXELS", size[0] * size[1] - 1)
    tiled = own_family.decode(latents)
    assert not vae.use_tiling
    vae.enable_tiling()
    with torch.no_grad():
        expected = (own_family.picture(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255
    assert (tiled - expected).abs().max() <= 1
    assert not torch.equal(tiled, untiled)


def test_sigmas_descend_from_one_to_zero(family):
    sigmas = family.sigmas(STEPS, *SIZE)
    assert len(sigmas) == STEPS + 1
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_without_the_decoder_sizes_and_sigmas_are_the_same(folder, family):
    policy = load(folder, decoder=False)
    assert policy.pipeline.vae is None
    assert policy.latent_shape(*WIDE) == family.latent_shape(*WIDE) == (4, 8, 12)
    assert torch.equal(policy.sigmas(STEPS, *WIDE), family.sigmas(STEPS, *WIDE))


def test_velocity_is_float32_and_of_the_latents_shape(family):
    latents = noise(family, 1)
    velocity = family.velocity(latents, torch.tensor([0.4]), family.prompted(CAPTION, 1.0).conditions)
    assert velocity.dtype == torch.float32
    assert velocity.shape == latents.shape


def test_in_bfloat16_velocity_and_images_are_nearly_the_same(low, family):
    latents = noise(family, 3)
    sigma = torch.tensor([1.0, 0.5, 0.25])
    with torch.no_grad():
        expected = family.guided_velocity(latents, sigma, prompted(family, CAPTIONS, 1.5))
        velocity = low.guided_velocity(latents, sigma, prompted(low, CAPTIONS, 1.5))
    assert velocity.dtype == torch.float32
    assert (velocity - expected).norm() < 0.05 * expected.norm()
    assert (low.decode(latents).float() - family.decode(latents).float()).abs().mean() < 2


@pytest.mark.parametrize("guidance_scale", [0.0, 3.5])
def test_a_row_does_not_depend_on_its_batch(family, guidance_scale):
    """Captions of 1 to all tokens that the family reads, each beside the others and alone."""
    latents, sigma = noise(family, 3), torch.tensor([0.9, 0.5, 0.1])
    together = prompted(family, CAPTIONS, guidance_scale)
    with torch.no_grad():
        batch = family.guided_velocity(latents, sigma, together)
        for i, caption in enumerate(CAPTIONS):
            for one in (prompted(family, [caption], guidance_scale), together.rows(i, i + 1)):
                alone = family.guided_velocity(latents[i : i + 1], sigma[i : i + 1], one)
                torch.testing.assert_close(alone, batch[i : i + 1], atol=1e-4, rtol=0)


def test_nothing_hangs_on_what_lies_behind_a_caption(family):
    """The padding of a shorter row is without meaning: any numbers may stand there."""
    latents, sigma = noise(family, 3), torch.full((3,), 0.5)
    conditions = prompted(family, CAPTIONS, 1.0).conditions
    lengths = conditions.tensors.get("prompt_lengths")
    if lengths is None:
        pytest.skip("this family pads every caption to one length, and its network reads the padding")
    embeds = conditions.tensors["prompt_embeds"].clone()
    for i, length in enumerate(lengths):
        assert (embeds[i, length:] == 0).all()
        embeds[i, length:] = 7.0
    with torch.no_grad():
        torch.testing.assert_close(
            family.velocity(latents, sigma, Conditions({**conditions.tensors, "prompt_embeds": embeds})),
            family.velocity(latents, sigma, conditions),
            atol=1e-5,
            rtol=0,
        )


def test_captions_encoded_together_are_those_encoded_one_by_one(family):
    captions = [family.fit_caption(caption) for caption in CAPTIONS]
    with torch.no_grad():
        together = family.encode(captions)
    assert captions == [family.fit_caption(caption) for caption in CAPTIONS]
    for name, tensor in Conditions.concatenate([family.encode([caption]) for caption in captions]).tensors.items():
        torch.testing.assert_close(together.tensors[name], tensor, atol=1e-5, rtol=0)
    assert {len(tensor) for tensor in family.tell_guidance(together, 2.0).tensors.values()} == {len(captions)}


# Of 64 tokens, less those of the template; without T5, SD3's CLIP reads 16. A word is a token; CLIP and T5 put one at either end.
READ = {"flux-dev": 62, "flux-schnell": 62, "qwen-image": 64 - 5, "sd3": 14, "sd3-t5": 62, "z-image": 64 - 8}


def test_captions_are_cut_at_a_word_where_the_encoder_stops(kind, family):
    words = LONG.split()
    cut = family.fit_caption(LONG).split()
    assert len(cut) == READ[kind]
    assert words[: len(cut)] == cut
    assert family.fit_caption(" ".join(cut)) == " ".join(cut)
    assert family.fit_caption(" ".join(words[: len(cut) + 1])) == " ".join(cut)
    assert family.fit_caption(CAPTION) == CAPTION


def test_a_caption_that_fits_is_read_to_its_end(family):
    """Its last word counts; were it cut off by the encoder, the images of both captions would be one."""
    words = family.fit_caption(LONG).split()
    first, second = (" ".join([*words[:-1], last]) for last in ("red", "photo"))
    assert (ours(family, [first], 0.0) - ours(family, [second], 0.0)).abs().max() > 1e-4


def test_more_tokens_than_the_model_reads_are_refused(folder):
    with pytest.raises(ValueError, match=r"max_sequence_length = 4096: \w+ reads at most \d+ tokens"):
        load(folder, max_sequence_length=4096)


def test_fewer_tokens_than_the_chat_template_has_are_refused(folder, family):
    if getattr(family.pipeline.tokenizer, "chat_template", None) is None:
        pytest.skip("this family's captions go into no template")
    with pytest.raises(ValueError, match=r"max_sequence_length = 4: .* its chat template and a caption"):
        load(folder, max_sequence_length=4)


def test_conditions_repeat_row_by_row(family):
    parts = [family.prompted(caption, 1.0) for caption in ("a red circle", "a blue square")]
    together = family.together(parts)
    latents, sigma = noise(family, 4)[[0, 0, 0, 0]], torch.full((4,), 0.5)
    with torch.no_grad():
        velocity = family.guided_velocity(latents, sigma, together.repeat(2))
    assert torch.equal(velocity[0], velocity[1])
    assert torch.equal(velocity[2], velocity[3])
    assert not torch.equal(velocity[1], velocity[2])


def test_parked_encoders_come_for_new_captions_only_and_see_the_same(folder, family, monkeypatch):
    parked, stays = load(folder, text_encoders="park"), []
    monkeypatch.setattr(parked, "parked", Counting(parked.parked, stays))
    encoders = [part for name in parked.encoder_parts if (part := getattr(parked.pipeline, name))]
    homes = [tensor for encoder in encoders for tensor in (*encoder.parameters(), *encoder.buffers())]
    parked.prepare([family.fit_caption(caption) for caption in CAPTIONS], 3.5)
    assert stays == [len(homes)]
    for name, tensor in prompted(parked, CAPTIONS, 3.5).conditions.tensors.items():
        assert torch.equal(tensor, prompted(family, CAPTIONS, 3.5).conditions.tensors[name])
    assert len(stays) == 1
    back = [tensor for encoder in encoders for tensor in (*encoder.parameters(), *encoder.buffers())]
    assert all(tensor is home for tensor, home in zip(back, homes, strict=True))


class Counting:
    """Parked encoders that note how many tensors come for each stay."""

    def __init__(self, parked, stays):
        self.parked, self.stays = parked, stays

    def stay(self):
        self.stays.append(len(self.parked.places))
        return self.parked.stay()


def test_captions_that_are_prepared_together_are_all_kept(own_family, monkeypatch):
    monkeypatch.setattr(family_module, "CACHED_CAPTIONS", 2)
    encoded, encode = [], own_family.encode
    monkeypatch.setattr(own_family, "encode", lambda captions: encoded.extend(captions) or encode(captions))
    words = ["red", "blue", "one", "two"]
    own_family.prepare(words, 3.5)
    for _ in range(2):
        for word in words:
            own_family.prompted(word, 3.5)
    empty = [own_family.empty_caption] if own_family.needs_unconditional(3.5) else []
    assert encoded == [*words, *empty]
    own_family.prompted("circle", 3.5)
    own_family.prompted(words[0], 3.5)  # the others made room
    assert encoded == [*words, *empty, "circle", words[0]]


def to_meta(conditions: Conditions) -> Conditions:
    """All but the lengths, which belong on the CPU."""
    lengths = {name: tensor for name, tensor in conditions.tensors.items() if name == "prompt_lengths"}
    return Conditions({name: tensor.to("meta") for name, tensor in conditions.tensors.items()} | lengths)


@pytest.mark.parametrize("guidance_scale", [0.0, 3.5])
def test_velocity_does_not_wait_for_the_device(own_family, guidance_scale):
    """On the meta device there are shapes and no numbers: whatever reads a number there raises an error, as it waits on a GPU."""
    latents, sigma = noise(own_family, 3), torch.full((3,), 0.5)
    given = prompted(own_family, CAPTIONS, guidance_scale)
    away = Prompted(to_meta(given.conditions), given.unconditional and to_meta(given.unconditional), guidance_scale)
    own_family.transformer.to("meta")
    velocity = own_family.guided_velocity(latents.to("meta"), sigma.to("meta"), away)
    assert velocity.is_meta
    assert velocity.shape == latents.shape


def test_an_image_size_that_cannot_be_drawn_is_refused(family):
    with pytest.raises(ValueError, match="multiples of"):
        family.latent_shape(33, 32)
    with pytest.raises(ValueError, match="multiples of"):
        family.latent_shape(32, 36)


def test_the_pipeline_takes_noise_in_its_own_form(family, pipeline):
    """Guards the comparisons: packing and unpacking here are the pipeline's, and undo each other."""
    latents = noise(family, 2, WIDE)
    assert torch.equal(unpacked(pipeline, packed(pipeline, latents), WIDE), latents)


def test_an_unknown_pipeline_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "OtherPipeline", "_diffusers_version": "0.30.0"}')
    with pytest.raises(ValueError, match=r"OtherPipeline; EchoRay has families for .*StableDiffusion3Pipeline"):
        load_family(str(tmp_path), options())


def test_the_vae_is_float32_whatever_the_rest_is(low):
    parts = low.pipeline.components.items()
    types = {name: part.dtype for name, part in parts if isinstance(part, torch.nn.Module)}
    assert types.pop("vae") == torch.float32
    assert set(types.values()) == {torch.bfloat16}
    images = low.decode(torch.randn(1, *low.latent_shape(32, 32)))
    assert images.shape == (1, 32, 32, 3)
