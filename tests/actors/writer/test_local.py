"""A local writer, its actor and its trial."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.messages import Turn, WriteRequest, WriteTrial
from actors.mistake import Mistake
from actors.process import Process
from actors.writer.actor import WriterActor
from actors.writer.local import LocalWriterOptions
from actors.writer.registry import WRITERS
from toy.random_models.vlms import make_tiny_llava

TRIAL = WriteTrial(height=16, width=16)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_llava(tmp_path_factory.mktemp("llava"))


def asked(*parts: str | int, seed: int = 0) -> WriteRequest:
    return WriteRequest((Turn("user", parts),), seed)


def block(count: int, size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_the_actor_numbers_the_images_of_its_blocks_in_order(llava: Path):
    options = LocalWriterOptions(model=str(llava), max_tokens=6, temperature=0.9)
    actor = WriterActor(Process(1), options, TRIAL)
    blocks = block(2, 16, 1), block(1, 20, 2)
    written = actor.write((asked(1, "left", seed=3), asked(2, "left", seed=3)), *blocks)
    assert written[0] == actor.write((asked(0, "left", seed=3),), blocks[0][1:])[0]
    assert written[1] == actor.write((asked(0, "left", seed=3),), blocks[1])[0]
    assert written[0].text != written[1].text
    assert b"torch" not in pickle.dumps(written)
    chances = actor.chances((asked(1, "left"),), "red", *blocks)
    assert 0 < chances[0].probability < 1  # type: ignore[operator]
    assert {"device": "cpu", "dtype": "float32", "model": str(llava)}.items() <= actor.info().items()


def test_fewer_tokens_than_the_options_say_can_be_asked_for(llava: Path):
    writer = LocalWriterOptions(model=str(llava), max_tokens=6).load()
    whole, few = (writer.write([asked("a")], [], most)[0] for most in (None, 2))
    assert (whole.tokens, few.tokens) == (6, 2)
    assert whole.text.startswith(few.text)  # type: ignore[union-attr, arg-type]


def test_a_trial_tells_of_weights_that_give_no_numbers(llava: Path, tmp_path: Path):
    folder = Path(shutil.copytree(llava, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    save_file({**weights, head: weights[head] * torch.nan}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Mistake, match=r"^writer\.model = .* cannot write: the logits are no numbers"):
        WriterActor(Process(1), LocalWriterOptions(model=str(folder)), TRIAL)


def test_a_trial_tells_of_a_query_that_cannot_be_asked(llava: Path):
    trial = WriteTrial(16, 16, query="what is <image>?")
    with pytest.raises(Mistake, match=r"^captions\.model = .* special token"):
        WriterActor(Process(1), LocalWriterOptions(model=str(llava)), trial, "captions")


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_writers_options_name_its_type(name: str):
    assert WRITERS[name].model_fields["type"].default == name
