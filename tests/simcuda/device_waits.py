"""What drawing and training make a GPU wait for: adapters, parked encoders, figures. The counts are those of the tiny models."""

from __future__ import annotations

import numpy as np
import pytest

from actors.diffusion.options import ImageModelOptions
from actors.messages import Adapter, DrawPart, DrawRequest, Latents, UpdateGroup
from actors.policy.engine import TorchEngine
from actors.policy.learner import Learner, load_model
from actors.policy.objectives.awm_options import AwmOptions
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from tests.support.gang import settings
from tests.support.simcuda.events import Event, Log, watch
from toy.random_models.sd3 import make_tiny_sd3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_sd3(tmp_path_factory.mktemp("sd3")))


def make_learner(model: str, **policy: object) -> Learner:
    given = settings(model, {"kl_ema": 0.1}, **{"device": "cuda", "dtype": "auto", **policy})
    family = load_model(given)
    return Learner(given, family, TorchEngine(family.transformer, given.policy))


def update(learner: Learner, step: int) -> None:
    latents = np.random.default_rng(step).normal(size=(4, 4, 8, 8)).astype(np.float32)
    seeds = tuple(range(4 * step, 4 * step + 4))
    learner.update(
        step, (UpdateGroup(step, 0, "p", "a red circle", 0, (1.0, -1.0, 0.5, -0.5), seeds),), (Latents(latents),)
    )


def draw(generator: Generator, adapter: Adapter, caption: str = "a red circle") -> tuple:
    part = DrawPart(0, 0, caption, (1, 2), (3, 4))
    request = DrawRequest("train", 1, (part,), adapter.policy_version, adapter.sha256, 3, 2.0, 32, 32)
    return generator.draw(request, adapter)


def of(log: Log, *files: str) -> list[Event]:
    """What makes the host wait because of lines of these files."""
    return [event for event in log.blocking() if any(file in event.line for file in files)]


def test_figures_are_read_once_a_step_whatever_the_micro_batches(model: str):
    counts = []
    for micro_batch in (4, 1):
        learner = make_learner(model, micro_batch=micro_batch)
        update(learner, 1)
        with watch() as log:
            update(learner, 2)
        assert not of(log, "policy/learner.py", "objectives/"), log
        counts.append(len(log.blocking()))
    assert counts == [2, 2]  # the figures, and the norm of the gradient


def test_an_export_waits_once(model: str):
    learner = make_learner(model)
    with watch() as log:
        learner.export(1)
    assert len(log.blocking()) == 1, log


def test_a_newer_adapter_comes_without_a_copy_that_blocks_and_is_proven_with_three_answers(model: str):
    learner, generator = (
        make_learner(model),
        Generator(GeneratorSettings(model, AwmOptions(), ImageModelOptions(device="cuda"), 2)),
    )
    for step in (1, 2):
        update(learner, step)
        adapter = learner.export(step)
        with watch() as log:
            draw(generator, adapter)
    assert adapter is not None
    loading = of(log, "diffusion/lora.py", "rollout/probe.py")
    assert [event.kind for event in loading] == ["wait"] * 3, log
    sent = sum(tensor.nbytes for tensor in adapter.tensors.values())
    assert log.copied("to device") < 1.5 * sent  # the base stayed there


def test_a_base_that_has_no_room_beside_the_model_comes_from_pinned_memory(model: str, monkeypatch: pytest.MonkeyPatch):
    learner = make_learner(model)
    update(learner, 1)
    adapter = learner.export(1)
    images = []
    for room in (True, False):
        monkeypatch.setattr("actors.diffusion.lora.room_on", lambda device, num_bytes, room=room: room)
        generator = Generator(GeneratorSettings(model, AwmOptions(), ImageModelOptions(device="cuda"), 2))
        images.append(draw(generator, adapter)[1])
        assert {base.is_cuda for base in generator.merger.base.values()} == {room}
        generator.merger.sha256 = ""
        with watch() as log:
            images.append(draw(generator, adapter)[1])
        assert not [event for event in of(log, "diffusion/lora.py") if event.kind != "wait"], log
    assert all(np.array_equal(image, images[0]) for image in images)


def test_parked_encoders_come_without_waiting_and_nothing_goes_back(model: str):
    logs, images = [], []
    for text_encoders in ("keep", "park"):
        generator = Generator(
            GeneratorSettings(model, AwmOptions(), ImageModelOptions(device="cuda", text_encoders=text_encoders), 2)
        )
        learner = make_learner(model)
        adapter = learner.export(0)
        draw(generator, adapter)
        with watch() as log:
            images.append(draw(generator, adapter, "a blue square")[1])
        logs.append(log)
    kept, parked = logs
    assert len(parked.blocking()) == len(kept.blocking()), parked
    assert parked.copied("to host") == kept.copied("to host")
    encoders = sum(home.nbytes for home in generator.family.parked.places)
    assert parked.copied("to device") - kept.copied("to device") == encoders > 0
    assert np.array_equal(*images)
