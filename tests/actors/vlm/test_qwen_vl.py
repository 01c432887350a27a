"""What is the Qwen-VLs' own: how many tokens an image takes, where they stand, and the budget of pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.vlm.family import Vlm, load_vlm
from actors.vlm.likelihood import token_log_probs

CPU = torch.device("cpu")
QUERY = "Describe this image in detail."
SYSTEM = {"qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "qwen3_vl": ""}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def vlm(kind: str, tiny_vlms: dict[str, Path]) -> Vlm:
    return load_vlm(str(tiny_vlms[kind]), torch.float32, CPU)


def draw(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "tokens"), [((16, 16), 2 * 2), ((16, 32), 2 * 4), ((17, 33), 2 * 4), ((1, 1), 1), ((64, 64), 4 * 4)]
)
def test_the_prefix_is_the_models_template_with_a_placeholder_for_every_8_by_8_pixels(
    vlm: Vlm, kind: str, shape: tuple[int, int], tokens: int
):
    batch = vlm.batch(draw(1, *shape), QUERY, "red", False)
    pads = "<|image_pad|>" * tokens
    expected = f"{SYSTEM[kind]}<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{QUERY}<|im_end|>\n<|im_start|>assistant\n"
    prefix = batch.inputs["input_ids"][0, : batch.answer_start]
    assert vlm.tokenizer.decode(prefix) == expected  # type: ignore[attr-defined]


def test_positions_are_a_grid_inside_the_image_and_go_on_from_its_longer_side(vlm: Vlm):
    batch = vlm.batch(draw(2, 16, 32), QUERY, "a red circle", False)
    positions = batch.inputs["position_ids"]
    length = batch.inputs["input_ids"].shape[1]
    first = batch.inputs["input_ids"][0].tolist().index(vlm.model.config.image_token_id)  # type: ignore[attr-defined]
    before = torch.arange(first).expand(3, -1)
    grid = torch.tensor([[0] * 8, [0] * 4 + [1] * 4, [0, 1, 2, 3] * 2])
    after = torch.arange(first + 4, first + 4 + length - first - 8).expand(3, -1)
    expected = torch.cat([before, first + grid, after], dim=1)
    assert torch.equal(positions, expected.expand(2, -1, -1))


def test_positions_are_what_the_models_helper_gives_every_row(vlm: Vlm):
    inputs = vlm.batch(draw(3, 24, 16), QUERY, "a red circle", False).inputs
    model = vlm.model  # type: ignore[attr-defined]
    is_image = (inputs["input_ids"] == model.config.image_token_id).int()
    own_3KL, _ = model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=is_image, image_grid_thw=inputs["image_grid_thw"]
    )
    assert torch.equal(inputs["position_ids"].transpose(0, 1), own_3KL)


def test_what_a_generation_leaves_in_the_model_changes_nothing(vlm: Vlm):
    images = draw(1, 16, 32)
    before = [token_log_probs(vlm, shown, QUERY, "a red circle").log_probs_KT for shown in (images, None)]
    vlm.model.model.rope_deltas = torch.tensor([[-7]])  # type: ignore[attr-defined]
    after = [token_log_probs(vlm, shown, QUERY, "a red circle").log_probs_KT for shown in (images, None)]
    assert [array.tobytes() for array in before] == [array.tobytes() for array in after]


def num_tokens(vlm: Vlm, height: int, width: int) -> int:
    ids = vlm.batch(draw(1, height, width), QUERY, "red", False).inputs["input_ids"][0]
    return ids.tolist().count(vlm.model.config.image_token_id)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("pixels", "tokens"), [(8 * 8, 1), (16 * 16, 4), (24 * 24, 9), (64 * 64, 64)])
def test_a_budget_is_so_many_tokens_of_8_by_8_pixels(tiny_vlms: dict[str, Path], kind: str, pixels: int, tokens: int):
    vlm = load_vlm(str(tiny_vlms[kind]), torch.float32, CPU, image_pixels=pixels)
    assert num_tokens(vlm, 128, 128) == tokens
    assert num_tokens(vlm, 64, 256) <= max(tokens, 2), "the short side is a token, whatever the budget"
    assert num_tokens(vlm, 8, 8) == 1, "a small image is not enlarged"


def test_the_folder_of_an_older_release_is_read(tiny_vlms: dict[str, Path], kind: str, tmp_path: Path):
    """The fast image processor's name, the budget under its old names, the template in a file of its own."""
    folder = Path(shutil.copytree(tiny_vlms[kind], tmp_path / "model"))
    options = json.loads((folder / "preprocessor_config.json").read_text())
    del options["size"]
    options |= {"image_processor_type": "Qwen2VLImageProcessorFast", "min_pixels": 8**2, "max_pixels": 16**2}
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    old = load_vlm(str(folder), torch.float32, CPU)
    assert type(old.image_processor).__name__ == "Qwen2VLImageProcessorPil"  # type: ignore[attr-defined]
    assert num_tokens(old, 64, 64) == 4
    new = load_vlm(str(tiny_vlms[kind]), torch.float32, CPU, image_pixels=16**2)
    images = draw(2, 64, 64)
    assert np.array_equal(*(token_log_probs(each, images, QUERY, "a red circle").log_probs_KT for each in (old, new)))


def test_an_image_too_narrow_for_the_model_is_an_error(vlm: Vlm):
    with pytest.raises(ValueError, match="aspect ratio"):
        vlm.batch(draw(1, 1, 300), QUERY, "red", False)
