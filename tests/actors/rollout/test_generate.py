"""A rollout worker's drawing: the bytes are the sampler's own, and an adapter must reach the model that draws them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.diffusion import lora
from actors.diffusion.family import LoadOptions, load_family
from actors.diffusion.lora import Merger
from actors.diffusion.options import ImageModelOptions
from actors.diffusion.sample import draw_latents, noise_of
from actors.messages import Adapter, DrawPart, DrawRequest, sha256_of
from actors.policy.objectives.awm_options import AwmOptions
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from actors.rollout.probe import CAPTION, changed_modules
from actors.seeds import seed_of

RANK, ALPHA, TOKENS = 4, 8.0, 2
TARGETS = ("to_q", "to_v", "to_out.0", "add_k_proj", "ff.net.2")
PART = DrawPart(0, 0, "a red circle", (11, 12, 13), (21, 22, 23))
REQUEST = DrawRequest("train", 1, (PART,), 1, "", 4, 2.0, 32, 32)


def make_generator(model, dtype="float32"):
    return Generator(GeneratorSettings(model, AwmOptions(), ImageModelOptions(device="cpu", dtype=dtype), TOKENS))


@pytest.fixture
def generator(tiny_sd3):
    return make_generator(tiny_sd3)


def load(model):
    return load_family(model, LoadOptions(torch.device("cpu"), torch.float32, decoder=True, max_sequence_length=TOKENS))


def make_adapter(generator, version, scale, targets=TARGETS):
    """Random A, and B of the given standard deviation, on the modules whose names end as a target."""
    random = np.random.default_rng(version)
    tensors = {}
    for name, weight in generator.merger.weights.items():
        if name.endswith(targets):
            tensors[name + lora.A] = random.normal(0, 1 / RANK, (RANK, weight.shape[1])).astype(np.float32)
            tensors[name + lora.B] = random.normal(0, scale, (weight.shape[0], RANK)).astype(np.float32)
    return Adapter(version, RANK, ALPHA, targets, sha256_of(tensors), tensors)


def draw(generator, adapter):
    request = replace(REQUEST, policy_version=adapter.policy_version, adapter_sha256=adapter.sha256)
    (report,), images, latents = generator.draw(request, adapter)
    return report, images, latents


def peft_velocity(model, adapter=None):
    """The velocity at the probe's noise and caption, with the adapter beside the weights instead of merged into them."""
    family = load(model)
    if adapter:
        lora.attach(family.transformer, RANK, ALPHA, adapter.targets, seed=0)
        with torch.no_grad():
            for name, parameter in lora.tensors(family.transformer, lora.TRAINED).items():
                parameter.copy_(torch.from_numpy(adapter.tensors[name]))
    noise_BCHW = noise_of(seed_of("probe", "noise"), (1, 4, 2, 2))  # 8 x 8 pixels, this model's smallest
    with torch.no_grad():
        return family.velocity(noise_BCHW, torch.ones(1), family.prompted(CAPTION, 1.0).conditions)


def test_an_adapter_that_is_zero_leaves_the_model_and_is_accepted(generator):
    base = generator.merger.velocity()
    report, *_ = draw(generator, make_adapter(generator, 0, scale=0.0))
    assert report.adapter_effect == 0.0
    assert torch.equal(generator.merger.velocity(), base)


def test_the_effect_is_the_relative_change_of_the_velocity(generator, tiny_sd3):
    adapter = make_adapter(generator, 1, scale=0.3)
    base, changed = peft_velocity(tiny_sd3), peft_velocity(tiny_sd3, adapter)
    report, *_ = draw(generator, adapter)
    assert 0 < report.load_seconds <= report.seconds
    assert report.adapter_effect > 0.01
    assert report.adapter_effect == pytest.approx(((changed - base).norm() / base.norm()).item(), rel=1e-3)


def test_a_change_that_rounding_swallows_is_an_error_at_every_try(tiny_sd3):
    generator = make_generator(tiny_sd3, "bfloat16")
    tiny, large = make_adapter(generator, 1, scale=1e-12), make_adapter(generator, 2, scale=0.3)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"adapter 1 changes \d+ modules, .* so small that rounding to bfloat16 leaves .* of it"
        ):
            draw(generator, tiny)
    assert draw(generator, large)[0].adapter_effect > 0.01
    with pytest.raises(ValueError, match="adapter 1 changes"):
        draw(generator, tiny)


def test_modules_that_take_no_part_in_drawing_are_an_error(generator):
    """The last block throws away what its captions' queries attend to."""
    idle = "transformer_blocks.1.attn.add_q_proj"
    for targets in ((idle,), (*TARGETS, idle)):
        adapter = make_adapter(generator, 3, scale=0.3, targets=targets)
        with pytest.raises(ValueError, match=f"does not draw with the weights of 1 of them: {idle}"):
            draw(generator, adapter)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_that_arrives_only_in_part_is_an_error(tiny_sd3, dtype):
    """Fused projections are copies of the weights that the adapter changes."""
    generator = make_generator(tiny_sd3, dtype)
    generator.family.transformer.fuse_qkv_projections()
    whole, apart = make_adapter(generator, 1, scale=0.3), make_adapter(generator, 2, 0.3, targets=("ff.net.2",))
    with pytest.raises(
        ValueError, match=r"does not draw with the weights of \d+ of them: .*attn\.(to_q|to_v|add_k_proj)"
    ):
        draw(generator, whole)
    assert draw(generator, apart)[0].adapter_share == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("dtype", "scale", "share"),
    [
        ("float32", 1e-6, pytest.approx(1.0, abs=1e-3)),
        ("bfloat16", 0.01, pytest.approx(1.0, abs=0.05)),
        ("bfloat16", 1e-5, pytest.approx(0.05, abs=0.05)),
    ],
)
def test_an_adapter_that_is_small_but_there_is_not_accused(tiny_sd3, dtype, scale, share):
    report, *_ = draw(make_generator(tiny_sd3, dtype), make_adapter(make_generator(tiny_sd3), 1, scale))
    assert report.adapter_share == share


def test_a_model_that_answers_from_memory_is_an_error(generator, monkeypatch):
    """As a cache of velocities would, or a graph that holds its weights as constants."""
    velocity, base = generator.family.velocity, generator.merger.base_velocity_BCHW
    monkeypatch.setattr(
        generator.family, "velocity", lambda *given: velocity(*given) if torch.is_grad_enabled() else base
    )
    with pytest.raises(ValueError, match="answers a probe as without it, to the bit, in float32"):
        draw(generator, make_adapter(generator, 1, scale=0.3))


def test_from_one_version_to_the_next_and_back(generator):
    base = generator.merger.velocity()
    zero, first, second = (make_adapter(generator, version, scale) for version, scale in enumerate((0.0, 0.3, 0.1)))
    effects = {}
    for adapter in (zero, first, second, first, zero, second):
        effect = draw(generator, adapter)[0].adapter_effect
        assert effects.setdefault(adapter.policy_version, effect) == effect
        assert torch.equal(generator.merger.velocity(), base) == (adapter is zero)
    assert effects[1] > effects[2] > effects[0] == 0.0


def test_a_load_that_failed_half_way_leaves_nothing_behind(generator):
    good, broken = make_adapter(generator, 1, scale=0.3), make_adapter(generator, 2, scale=0.3)
    _, expected, _ = draw(generator, good)
    last = list(broken.tensors)[-1]
    tensors = {**broken.tensors, last: broken.tensors[last][:-1]}
    with pytest.raises(RuntimeError):
        draw(generator, replace(broken, tensors=tensors, sha256=sha256_of(tensors)))
    np.testing.assert_array_equal(draw(generator, good)[1], expected)


def test_the_images_are_those_of_the_sampler_and_no_random_state_is_touched(generator, tiny_sd3):
    adapter = make_adapter(generator, 1, scale=0.3)
    family = load(tiny_sd3)
    Merger(family.transformer).load(adapter)
    shape, count = family.latent_shape(REQUEST.height, REQUEST.width), len(PART.noise_seeds)
    expected = draw_latents(
        family, torch.stack([noise_of(seed, shape) for seed in PART.noise_seeds]), family.sigmas(4, 32, 32),
        family.prompted(PART.caption, REQUEST.guidance_scale).repeat(count),
    )  # fmt: skip
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    report, images, latents = draw(make_generator(tiny_sd3), adapter)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tobytes() == before_numpy
    assert report.adapter_sha256 == adapter.sha256
    np.testing.assert_array_equal(latents.latents_KCHW, expected.numpy())
    np.testing.assert_array_equal(images, family.decode(expected).numpy())
    np.testing.assert_array_equal(draw(generator, adapter)[1], images)


def test_a_probe_is_one_forward_per_version_that_is_loaded(generator):
    batches = []
    generator.family.transformer.register_forward_pre_hook(
        lambda _, __, given: batches.append(len(given["hidden_states"])), with_kwargs=True
    )
    first, second = make_adapter(generator, 1, scale=0.3), make_adapter(generator, 2, scale=0.3)
    for adapter in (first, first, second, second, first):
        draw(generator, adapter)
    drawing = [2 * len(PART.noise_seeds)] * REQUEST.num_steps  # with guidance: twice the images
    first_time = [1, 1]  # once more for the gradients
    assert batches == [*first_time, *drawing, *drawing, 1, *drawing, *drawing, 1, *drawing]


def test_an_adapter_that_the_request_does_not_name_is_refused(generator):
    first, second = make_adapter(generator, 1, scale=0.3), make_adapter(generator, 2, scale=0.3)
    with pytest.raises(
        ValueError, match=f"got adapter {second.sha256[:12]}, but the request names {first.sha256[:12]}"
    ):
        generator.draw(replace(REQUEST, adapter_sha256=first.sha256), second)


@pytest.mark.parametrize(("rows", "columns"), [((), ()), ((0, 2), ()), ((), (1,)), ((0, 2), (1, 3)), ((0, 2), (2,))])
def test_an_adapter_is_zero_when_its_products_are(rows, columns):
    down, up = np.zeros((RANK, 5), np.float32), np.zeros((6, RANK), np.float32)
    down[list(rows)], up[:, list(columns)] = 0.5, -0.25
    tensors = {"m" + lora.A: down, "m" + lora.B: up}
    changed = changed_modules(Adapter(1, RANK, ALPHA, ("m",), sha256_of(tensors), tensors))
    assert changed == (["m"] if (up @ down).any() else [])
