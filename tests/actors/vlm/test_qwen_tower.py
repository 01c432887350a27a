"""The quick vision tower of the Qwen-VLs against the one of transformers, and how often it calls attention."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil

from actors.vlm.family import load_vlm
from actors.vlm.likelihood import token_log_probs
from actors.vlm.qwen_tower import PatchProduct, cut_patches
from actors.vlm.qwen_vl import QwenVl

QUERY, CAPTION = "Describe this image in detail.", "a red circle left of a blue square"


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def vlm(kind: str, tiny_vlms: dict[str, Path]) -> QwenVl:
    return load_vlm(str(tiny_vlms[kind]), torch.float32, torch.device("cpu"))  # type: ignore[return-value]


def draw(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("width", "patch", "bias"), [(1280, 14, False), (1152, 16, True)])
def test_the_patch_embedding_equals_the_convolution_at_full_width(width: int, patch: int, bias: bool):
    torch.manual_seed(0)
    size = (2, patch, patch)
    convolution = nn.Conv3d(3, width, size, size, bias=bias).requires_grad_(False)
    patches = torch.randn(64, 3 * 2 * patch * patch)
    expected = convolution(patches.view(-1, 3, *size)).view(-1, width)
    assert (PatchProduct(convolution)(patches) - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("shape", [(16, 16), (32, 24), (8, 32)])
def test_patches_cut_on_the_device_are_the_processors_bytes(shape: tuple[int, int]):
    images = draw(3, *shape)
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 1, "longest_edge": 2**20})
    own = processor(images=list(images), do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    cut = cut_patches(torch.tensor(images).permute(0, 3, 1, 2), patch=4, merge=2, frames=2)
    assert torch.equal(cut.flatten(0, 1).flatten(1), own.to(torch.uint8))


def test_images_that_are_whole_tokens_never_meet_the_image_processor(vlm: QwenVl, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    cut = vlm._cut
    monkeypatch.setattr(vlm, "_cut", lambda images: asked.append(len(images)) or cut(images))
    for shape, times in (((24, 32), 0), ((32, 32), 0), ((24, 30), 1), ((40, 40), 1)):  # the last exceeds the budget
        asked.clear()
        vlm.batch(draw(2, *shape), QUERY, CAPTION, False)
        assert asked == [2] * times


@pytest.mark.parametrize("shape", [(16, 16), (24, 32), (32, 24), (8, 8), (17, 33)])
def test_the_tower_equals_that_of_transformers(
    vlm: QwenVl, kind: str, tiny_vlms: dict[str, Path], shape: tuple[int, int]
):
    """Windows of all lengths, whole and partial, in a group: the same embedding of every token of every image."""
    inputs = vlm.batch(draw(3, *shape), QUERY, CAPTION, False).inputs
    own = AutoModelForImageTextToText.from_pretrained(tiny_vlms[kind]).eval().model
    pixels = inputs["pixel_values"].flatten(0, 1).flatten(1)
    told = {name: value for name, value in vlm._keywords(inputs).items() if name.startswith("image_")}
    with torch.no_grad():
        expected = own.get_image_features(pixels, inputs["image_grid_thw"]).pooler_output
        found = vlm.model.model.get_image_features(pixels, **told).pooler_output
    assert len(found) == len(expected) == 3
    assert max((a - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)) < 2e-6


def test_a_group_costs_a_call_of_attention_per_length_of_windows(
    vlm: QwenVl, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Two layers in the tower and two behind it, for 5 images of 3 x 4 tokens in windows of 2 x 2 and, on the edge, 1 x 2."""
    calls: list[int] = []
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append(len(a[0])) or attention(*a, **k)
    )
    token_log_probs(vlm, draw(5, 24, 32), QUERY, CAPTION)
    windows = [5 * 2, 5 * 2] if kind == "qwen2_5_vl" else [5]
    assert calls == [*windows, 5, 5, 5]


def test_grids_and_ends_of_segments_stay_on_the_host(vlm: QwenVl, monkeypatch: pytest.MonkeyPatch):
    """What Python reads must not come from the device: there, reading waits for all that was asked before."""
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(vlm, "_send", lambda tensor: sent.append(tensor) or tensor)
    batch = vlm.batch(draw(2, 16, 16), QUERY, CAPTION, False)
    told = vlm._keywords(batch.inputs)
    host = [told[name] for name in ("image_grid_thw", "image_cu_seqlens", "image_cu_window_seqlens") if name in told]
    assert len(host) >= 2
    assert not {tensor.data_ptr() for tensor in host} & {tensor.data_ptr() for tensor in sent}
