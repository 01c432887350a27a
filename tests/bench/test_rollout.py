"""The benchmark of drawing on narrow models: both ways agree, its figures follow from each other, and the loop waits for no device."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from actors.diffusion.sample import draw_latents
from bench.flops import TRANSFORMERS
from bench.full_size import CAPTION, IMAGE_MODELS, image_model, transformer_config
from bench.rollout import main
from pipelines.preflight.memory.architectures import load

# Where captions are padded, diffusers' transformer sends their length once a step.
UPSTREAM = {"qwen-image": ["as_tensor"] * 3}
GUIDED = [("4", name) for name in IMAGE_MODELS]
CPU, META = torch.device("cpu"), torch.device("meta")


class Given(TorchDispatchMode):
    """Operators that take numbers of the host and give a tensor of a device without numbers: on a GPU these wait."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        from_host = any(
            isinstance(leaf, torch.Tensor) and leaf.device == CPU and leaf.ndim for leaf in tree_leaves(args)
        )
        if from_host and isinstance(result, torch.Tensor) and result.device == META:
            self.calls.append(str(func))
        return result


class Made(TorchFunctionMode):
    """Calls that make a tensor of Python's numbers, which no operator shows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.tensor, torch.as_tensor, torch.from_numpy):
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_what_is_sent_from_the_host_is_seen():
    """Guards the test below; what reads a number of the device is an error there anyway."""
    with Given() as given, Made() as made:
        torch.ones(3).to(META)
        torch.ones(3, device=META).copy_(torch.ones(3))
        torch.ones(3, device=META)[torch.zeros(3, dtype=torch.long)]
        torch.tensor([1.0, 2.0], device=META)
    assert len(given.calls) == 3
    assert made.calls == ["tensor"]
    with pytest.raises(RuntimeError):
        torch.ones(3, device=META).sum().item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device=META)[torch.ones(3, device=META) > 0]


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_the_guided_sampling_loop_sends_and_reads_nothing(name: str, tmp_path: Path):
    """On tensors without numbers: reading one is an error, and after the first call, which fills tables, nothing comes from the host."""
    family = image_model(name, META, torch.float32, True, 20, tmp_path)
    prompted = family.prompted(CAPTION, 4.0).repeat(2)
    noise = torch.empty(2, *family.latent_shape(64, 64), device=META)
    sigmas = family.sigmas(3, 64, 64).to(META)
    draw_latents(family, noise, sigmas, prompted)
    with Given() as given, Made() as made:
        assert draw_latents(family, noise, sigmas, prompted).device == META
    assert given.calls == []
    assert made.calls == UPSTREAM.get(name, [])


@pytest.mark.parametrize(("guidance", "name"), [("0", "sd3.5-medium"), *GUIDED])
def test_both_ways_draw_the_same_and_guidance_costs_twice_the_operations(guidance: str, name: str, tmp_path: Path):
    main(
        [
            "--family",
            name,
            "--tiny",
            "--guidance",
            guidance,
            "--device",
            "cpu",
            "--repeats",
            "1",
            "--out",
            str(tmp_path),
        ]
    )
    result = json.loads((tmp_path / f"rollout_{name}.json").read_text())
    assert result["difference"] < 1e-3
    config, family_tokens = transformer_config(name, tiny=True), (64 // 16) ** 2
    count = TRANSFORMERS[load(name)["class"]]
    once = 3 * count(config, family_tokens, 20).forward / 1e12
    if guidance == "0" or name == "flux.1-dev":
        assert result["tflop_per_image"] == pytest.approx(once)
    else:
        assert once < result["tflop_per_image"] <= 2.001 * once


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_the_operations_of_a_loop_are_those_that_torch_counts(name: str, tmp_path: Path):
    family = image_model(name, CPU, torch.float32, True, 20, tmp_path)
    noise = torch.randn(2, *family.latent_shape(64, 64))
    prompted = family.prompted(CAPTION, 0.0).repeat(2)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        draw_latents(family, noise, family.sigmas(3, 64, 64), prompted)
    flops = TRANSFORMERS[load(name)["class"]](transformer_config(name, tiny=True), family.tokens(64, 64), 20)
    assert 2 * 3 * flops.forward == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_other_latents_than_the_pipeline_s_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("bench.rollout.draw_latents", lambda family, noise, sigmas, prompted: noise)
    with pytest.raises(RuntimeError, match="differ"):
        main(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
