"""What is Idefics3's and SmolVLM's own: frames, and the text around them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.vlm.family import Vlm, load_vlm

CPU = torch.device("cpu")
QUERY = "Describe this image in detail."
AROUND, FRAME = "<fake_token_around_image>", "<image>" * 4
WHOLE = f"{AROUND}<global-img>{FRAME}{AROUND}"


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def folder(request: pytest.FixtureRequest, tiny_vlms: dict[str, Path]) -> Path:
    return tiny_vlms[request.param]


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load_vlm(str(folder), torch.float32, CPU)


def draw(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def prefix_of(vlm: Vlm, images: np.ndarray) -> str:
    batch = vlm.batch(images, QUERY, "red", False)
    return vlm.tokenizer.decode(batch.inputs["input_ids"][0, : batch.answer_start])  # type: ignore[attr-defined]


def frames(rows: int, columns: int) -> str:
    lines = [
        "".join(f"{AROUND}<row_{row}_col_{column}>{FRAME}" for column in range(1, columns + 1))
        for row in range(1, rows + 1)
    ]
    return "\n".join(lines) + "\n\n"


@pytest.mark.parametrize(
    ("shape", "rows", "columns"), [((32, 32), 2, 2), ((100, 100), 2, 2), ((16, 32), 1, 2), ((90, 4), 2, 1)]
)
def test_an_image_is_two_frames_on_its_longer_edge_and_a_whole_one(
    vlm: Vlm, shape: tuple[int, int], rows: int, columns: int
):
    images = draw(2, *shape)
    begin = vlm.tokenizer.bos_token  # type: ignore[attr-defined]
    expected = f"{begin}User:{frames(rows, columns)}{WHOLE}{QUERY}<end_of_utterance>\nAssistant:"
    assert prefix_of(vlm, images) == expected
    assert vlm.batch(images, QUERY, "red", False).inputs["pixel_values"].shape == (2, rows * columns + 1, 3, 16, 16)


@pytest.mark.parametrize("shape", [(32, 32), (17, 33), (1, 1), (5, 90)])
def test_every_frame_is_full_so_that_no_mask_is_needed(vlm: Vlm, shape: tuple[int, int]):
    images = [[Image.fromarray(image)] for image in draw(2, *shape)]
    assert vlm.image_processor(images=images, return_tensors="pt").pixel_attention_mask.all()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("pixels", "rows"), [(32 * 32, 2), (47 * 47, 2), (48 * 48, 3), (20 * 20, 0)])
def test_a_budget_is_a_square_of_frames(folder: Path, pixels: int, rows: int):
    vlm = load_vlm(str(folder), torch.float32, CPU, image_pixels=pixels)
    expected = frames(rows, rows) if rows else ""
    assert f"User:{expected}{WHOLE}{QUERY}" in prefix_of(vlm, draw(1, 64, 64))


def test_a_model_that_does_not_cut_images_shows_one_frame_and_has_no_budget(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (copy / name).exists():
            options = json.loads((copy / name).read_text())
            options.get("image_processor", options)["do_image_splitting"] = False
            (copy / name).write_text(json.dumps(options))
    vlm = load_vlm(str(copy), torch.float32, CPU)
    assert f"User:{WHOLE}{QUERY}" in prefix_of(vlm, draw(1, 64, 64))
    with pytest.raises(ValueError, match="one size"):
        load_vlm(str(copy), torch.float32, CPU, image_pixels=32**2)
