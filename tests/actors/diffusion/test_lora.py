"""The LoRA of every registered family: trained by peft, merged for drawing, read by diffusers alone."""

import re

import numpy as np
import pytest
import torch

from actors.diffusion import lora
from actors.diffusion.lora import Merger
from actors.messages import Adapter, sha256_of
from tests.actors.diffusion.drawing import CAPTION, CAPTIONS, copy_of, load_pipeline, noise, ours, prompted, theirs

RANK, ALPHA = 4, 8.0


@pytest.fixture(scope="session")
def adapter(loaded):
    """An adapter of all targets that is not zero."""
    trained = copy_of(loaded)
    targets = trained.lora_targets["all"]
    lora.attach(trained.transformer, RANK, ALPHA, targets, seed=1)
    tensors = lora.as_numpy(lora.tensors(trained.transformer, lora.TRAINED))
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(0, 0.2, value.shape).astype(np.float32) for name, value in tensors.items()}
    return Adapter(1, RANK, ALPHA, targets, sha256_of(tensors), tensors)


def attached(loaded, adapter):
    """A copy of the family with this adapter as the one that is trained."""
    family = copy_of(loaded)
    lora.attach(family.transformer, RANK, ALPHA, adapter.targets, seed=1)
    with torch.no_grad():
        for name, parameter in lora.tensors(family.transformer, lora.TRAINED).items():
            parameter.copy_(torch.from_numpy(adapter.tensors[name]))
    return family


def gradients(family):
    """Of the mean square of the velocity for three captions, by parameter."""
    conditions = prompted(family, CAPTIONS, 1.0).conditions
    family.velocity(noise(family, 3), torch.tensor([0.9, 0.5, 0.1]), conditions).square().mean().backward()
    return {name: p.grad for name, p in family.transformer.named_parameters() if p.grad is not None}


def test_a_fresh_adapter_changes_nothing_and_is_seeded(loaded, family):
    targets = family.lora_targets["attention"]
    before = ours(family, [CAPTION], 1.0)
    lora.attach(family.transformer, RANK, ALPHA, targets, seed=1)
    assert torch.equal(ours(family, [CAPTION], 1.0), before)
    other = copy_of(loaded)
    lora.attach(other.transformer, RANK, ALPHA, targets, seed=1)
    assert sha256_of(lora.as_numpy(lora.tensors(family.transformer, lora.TRAINED))) == sha256_of(
        lora.as_numpy(lora.tensors(other.transformer, lora.TRAINED))
    )


def test_targets_are_the_linear_layers_of_the_blocks(family):
    """A target that no layer answers to is misspelt, and peft passes over it in silence; `all` leaves out modulation alone."""
    layers = [name for name, module in family.transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    attention, every = family.lora_targets["attention"], family.lora_targets["all"]
    assert set(attention) < set(every)
    for target in every:
        assert any(name.endswith(f".{target}") for name in layers)
    left = [name for name in layers if re.search(r"(blocks|layers|refiner)\.\d", name) and not name.endswith(every)]
    assert all(re.search(r"norm\d?(_context)?\.linear|_mod\.1|adaLN_modulation", name) for name in left)


def test_merged_equals_peft_and_the_pipelines_own_loading(folder, loaded, family, adapter, tmp_path):
    base = ours(family, [CAPTION], 1.0)
    Merger(family.transformer).load(adapter)
    merged = ours(family, [CAPTION], 1.0)
    assert (merged - base).abs().max() > 1e-2

    trained = attached(loaded, adapter)
    torch.testing.assert_close(ours(trained, [CAPTION], 1.0), merged, atol=1e-4, rtol=0)

    layers = {name: torch.from_numpy(value) for name, value in adapter.tensors.items()}
    trained.save_lora(tmp_path, layers, lora.config_of(trained.transformer))
    pipeline = load_pipeline(folder)
    pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(theirs(pipeline, family, [CAPTION], 1.0), merged, atol=1e-4, rtol=0)


def test_loading_another_adapter_leaves_nothing_of_the_first(family, adapter):
    before = {name: parameter.clone() for name, parameter in family.transformer.named_parameters()}
    merger = Merger(family.transformer)
    merger.load(adapter)
    zero = {name: np.zeros_like(value) for name, value in adapter.tensors.items()}
    merger.load(Adapter(2, RANK, ALPHA, adapter.targets, sha256_of(zero), zero))
    for name, parameter in family.transformer.named_parameters():
        assert torch.equal(parameter, before[name])


def test_the_switch_computes_what_pefts_own_does_and_leaves_training_as_it_was(loaded, adapter):
    family = attached(loaded, adapter)
    transformer, switch = family.transformer, lora.Switch(family.transformer)
    wanted = {name: parameter.requires_grad for name, parameter in transformer.named_parameters()}
    drawn = {"trained": ours(family, [CAPTION], 1.0)}
    for name in ("none", "ema"):
        with switch.to(name):
            assert not torch.is_grad_enabled()
            drawn[name] = ours(family, [CAPTION], 1.0)
    assert torch.equal(ours(family, [CAPTION], 1.0), drawn["trained"])
    assert {name: parameter.requires_grad for name, parameter in transformer.named_parameters()} == wanted
    transformer.set_adapter(lora.EMA)
    assert torch.equal(ours(family, [CAPTION], 1.0), drawn["ema"])
    transformer.disable_adapters()
    assert torch.equal(ours(family, [CAPTION], 1.0), drawn["none"])
    assert not torch.equal(drawn["none"], drawn["trained"])


def test_gradient_reaches_the_trained_adapter_alone_and_checkpointing_does_not_change_it(loaded, adapter):
    family = attached(loaded, adapter)
    plain = gradients(family)
    assert plain
    assert {name.split(".lora_")[1].split(".")[1] for name in plain} == {lora.TRAINED}
    saving = attached(loaded, adapter)
    saving.transformer.enable_gradient_checkpointing()
    checkpointed = gradients(saving)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in checkpointed.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4)


IDLE = {
    "StableDiffusion3": ("attn.add_q_proj",),
    "QwenImage": ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
}


def test_only_what_cannot_change_the_image_has_no_gradient(loaded, adapter):
    """What the caption's stream becomes in a last block of two streams goes nowhere; all else has a part in the velocity."""
    family = attached(loaded, adapter)
    reached = gradients(family)
    mark = f".{lora.TRAINED}.weight"
    left = {name.split(".lora_")[0] for name, _ in family.transformer.named_parameters() if name.endswith(mark)} - {
        name.split(".lora_")[0] for name, gradient in reached.items() if gradient.abs().max() > 0
    }
    last = f"transformer_blocks.{len(getattr(family.transformer, 'transformer_blocks', ())) - 1}"
    assert left == {f"{last}.{name}" for name in IDLE.get(type(family).__name__, ())}


def test_an_adapter_of_another_model_or_with_altered_weights_is_refused(family, adapter):
    merger = Merger(family.transformer)
    foreign = {f"elsewhere.{name}": value for name, value in adapter.tensors.items()}
    with pytest.raises(ValueError, match="binds to 0 of its"):
        merger.load(Adapter(3, RANK, ALPHA, adapter.targets, sha256_of(foreign), foreign))
    with pytest.raises(ValueError, match="binds to 0 of its 0"):
        merger.load(Adapter(3, RANK, ALPHA, adapter.targets, sha256_of({}), {}))
    with pytest.raises(ValueError, match="hash"):
        merger.load(Adapter(3, RANK, ALPHA, adapter.targets, "0" * 64, adapter.tensors))
