"""The aesthetic head: one linear map, whatever file it comes from."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actors.messages import Prompt
from actors.mistake import Mistake
from actors.reward.kinds.aesthetic import AestheticOptions, read_head
from actors.vlm.dual_encoder import load_dual_encoder

IMAGES = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
PROMPT = Prompt("0", "whatever")


def test_layers_without_activations_are_their_product(tmp_path: Path, keys: dict):
    """As LAION's: numbered layers with dropout between them, which does nothing when a model is used."""
    head = nn.Sequential(nn.Linear(16, 8), nn.Dropout(), nn.Linear(8, 4), *[nn.Dropout()] * 8, nn.Linear(4, 1)).eval()
    save_file({f"layers.{name}": value for name, value in head.state_dict().items()}, tmp_path / "head.safetensors")
    reward = AestheticOptions(model=keys["aesthetic"]["model"], head=str(tmp_path / "head.safetensors")).load()
    with torch.no_grad():
        expected = head(reward.encoder.images(IMAGES))[:, 0]
    assert reward.score(IMAGES, PROMPT).rewards_K == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_embedding_is_a_unit_vector_before_the_head(keys: dict):
    reward = AestheticOptions(**keys["aesthetic"]).load()
    expected = 0.5 * reward.encoder.images(IMAGES).sum(-1) + 1
    assert reward.encoder.images(IMAGES).norm(dim=-1).tolist() == pytest.approx([1.0] * 3)
    assert reward.score(IMAGES, PROMPT).rewards_K == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_head_reads_the_embedding_of_either_kind_of_model_and_no_other_width(tiny_encoder: Path, tmp_path: Path):
    file = tmp_path / "head.safetensors"
    width = load_dual_encoder(str(tiny_encoder), torch.float32, torch.device("cpu")).width
    save_file({"weight": torch.ones(1, width)}, file)
    reward = AestheticOptions(model=str(tiny_encoder), head=str(file)).load()
    expected = reward.encoder.images(IMAGES).sum(-1)
    assert reward.score(IMAGES, PROMPT).rewards_K == pytest.approx(expected.tolist(), abs=1e-6)
    save_file({"weight": torch.ones(1, width + 1)}, file)
    with pytest.raises(Mistake, match=f"reads embeddings of {width + 1} numbers"):
        AestheticOptions(model=str(tiny_encoder), head=str(file)).load()


class Runs:
    """A pickle that would run something."""

    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"weight": torch.ones(2, 16)}, "gives 2 numbers an image: one is expected"),
        (
            {"a.0.weight": torch.ones(4, 16), "a.1.weight": torch.ones(1, 5)},
            "a.1.weight of shape [1, 5] does not follow",
        ),
        ({"weight": torch.ones(1, 16), "running_mean": torch.ones(3)}, "linear layers are expected"),
        ({}, "holds nothing"),
        ({"weight": torch.ones(1, 16), "bias": torch.ones(2)}, "bias has the shape [2]: it does not fit weight"),
    ],
)
def test_a_head_of_another_kind_is_a_mistake(tmp_path: Path, tensors: dict, told: str):
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(Mistake) as error:
        read_head(tmp_path / "head.safetensors")
    assert told in str(error.value)


def test_a_file_that_is_no_state_dict_is_a_mistake_and_nothing_in_it_is_run(tmp_path: Path):
    (tmp_path / "head.pth").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(Mistake, match="cannot be read"):
        read_head(tmp_path / "head.pth")


def test_a_head_for_another_model_is_a_mistake(tmp_path: Path, keys: dict):
    save_file({"weight": torch.ones(1, 768)}, tmp_path / "head.safetensors")
    options = AestheticOptions(model=keys["aesthetic"]["model"], head=str(tmp_path / "head.safetensors"))
    with pytest.raises(Mistake, match="reads embeddings of 768 numbers, but"):
        options.load()
