"""The make-believe device: it refuses what CUDA refuses, and counts what a host and a GPU wait for or copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.device import to_device, to_host
from actors.diffusion import lora
from actors.diffusion.family import Family
from actors.diffusion.options import ImageModelOptions
from actors.messages import Adapter, DrawPart, DrawRequest, sha256_of
from actors.policy.objectives.awm_options import AwmOptions
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from tests.support.simcuda.events import Event, Log, watch
from toy.random_models.sd3 import make_tiny_sd3

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    model = str(make_tiny_sd3(tmp_path_factory.mktemp("sd3")))
    return Generator(GeneratorSettings(model, AwmOptions(), ImageModelOptions(device="cuda"), 2))


def adapter_of(generator: Generator) -> Adapter:
    """One that changes nothing."""
    name = "transformer_blocks.0.attn.to_q"
    rows, columns = generator.merger.weights[name].shape
    tensors = {name + lora.A: np.ones((2, columns), np.float32), name + lora.B: np.zeros((rows, 2), np.float32)}
    return Adapter(0, 2, 2.0, ("to_q",), sha256_of(tensors), tensors)


def draw(generator: Generator) -> tuple:
    adapter = adapter_of(generator)
    part = DrawPart(0, 0, "a red circle", (1, 2), (3, 4))
    return generator.draw(DrawRequest("train", 1, (part,), 0, adapter.sha256, 3, 2.0, 32, 32), adapter)


def test_numbers_and_gradients_are_those_of_the_cpu():
    weight = torch.randn(3, 3)
    results = []
    for device in ("cpu", "cuda"):
        moved = weight.to(device, copy=True).requires_grad_()
        (moved @ moved).relu().sum().backward()
        assert moved.grad is not None
        assert moved.grad.device.type == device
        results.append(moved.grad.cpu())
    assert torch.equal(*results)


def test_tensors_of_two_devices_do_not_mix():
    here, there = torch.ones(3, device="cuda"), torch.ones(3)
    for mixture in (
        lambda: here + there,
        lambda: there * here,
        lambda: torch.cat([here, there]),
        lambda: here.add_(there),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixture()
    assert (here + there.sum()).device == here.device  # a number of the host may stand beside it


def test_the_host_cannot_read_the_device_without_a_copy():
    with pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device="cuda").numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(torch.ones(3, device="cuda"))


WAITS: dict[str, Any] = {
    "a number": lambda tensor: tensor.sum().item(),
    "a truth": lambda tensor: bool(tensor.isfinite().all()),
    "a list": lambda tensor: tensor.tolist(),
    "a mask": lambda tensor: tensor[tensor > 0],
    "where": lambda tensor: tensor.nonzero(),
    "a comparison": lambda tensor: torch.equal(tensor, tensor),
    "the device": lambda tensor: torch.cuda.synchronize(),
}
BLOCKING: dict[str, Any] = {
    "to host": lambda tensor: tensor.cpu(),
    "to device": lambda tensor: torch.ones(3).to(CUDA),
    "to device, not pinned": lambda tensor: torch.ones(3).to(CUDA, non_blocking=True),
    "to device, of Python": lambda tensor: torch.tensor([1.0, 2.0], device=CUDA),
    "to device, a value": lambda tensor: tensor.copy_(torch.ones(3)),
    "to device, an index": lambda tensor: tensor[[0, 1]],
}


def only_event_of(call: Callable[[Tensor], object]) -> Event:
    """What blocks when it is called with a tensor on the device."""
    tensor = torch.ones(3, device="cuda")
    with watch() as log:
        call(tensor)
    [event] = log.blocking()
    return event


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_counted_with_its_line(name: str):
    event = only_event_of(WAITS[name])
    assert event.kind == "wait"
    assert event.line.startswith("tests/simcuda/device_itself.py:")


@pytest.mark.parametrize("name", BLOCKING)
def test_a_copy_that_blocks_is_counted(name: str):
    event = only_event_of(BLOCKING[name])
    assert event.kind == name.partition(",")[0]
    assert event.num_bytes > 0


def test_work_on_the_device_alone_and_copies_of_pinned_memory_wait_for_nothing(log: Log):
    tensor = to_device(np.ones(3, np.float32), CUDA)
    tensor = torch.where(tensor > 0, tensor.softmax(0), 0.0) + torch.arange(3, device=CUDA) + torch.zeros_like(tensor)
    tensor[tensor > 1] = 0.0
    torch.ones(3).pin_memory()[1:].to(CUDA, non_blocking=True)
    assert not log.blocking(), log
    assert log.copied("to device") == 12 + 8


def test_what_comes_to_the_host_waits_once(log: Log):
    assert to_host(torch.ones(4, device="cuda")).tolist() == [1.0] * 4
    assert [event.kind for event in log.blocking()] == ["wait"]
    assert log.copied("to host") == 16


def test_a_wait_where_none_is_allowed_is_an_error():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            torch.ones(3, device="cuda").sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_noise_that_is_left_on_the_host_breaks_a_draw(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    """A device mistake, planted."""
    draw(generator)
    monkeypatch.setattr("actors.diffusion.sample.to_device", lambda array, device: array)
    with pytest.raises(RuntimeError, match="same device"):
        draw(generator)


def test_a_hidden_copy_in_the_sampling_loop_is_seen(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    """Another one, which computes what it should."""
    draw(generator)
    with watch() as before:
        _, images, _ = draw(generator)
    guide = type(generator.family).guide

    def hidden(family: Family, *args: Any) -> torch.Tensor:
        return guide(family, *(a.cpu().to(CUDA) if isinstance(a, torch.Tensor) else a for a in args))

    monkeypatch.setattr(type(generator.family), "guide", hidden)
    with watch() as after:
        _, again, _ = draw(generator)
    assert np.array_equal(images, again)
    steps, velocities = 3, 2
    for kind in ("to host", "to device"):
        assert len(after.blocking(kind)) == len(before.blocking(kind)) + steps * velocities  # type: ignore[arg-type]


def test_models_compute_in_bfloat16_there(generator: Generator):
    assert generator.family.dtype == torch.bfloat16
    assert next(generator.family.transformer.parameters()).device == torch.device("cuda", 0)
