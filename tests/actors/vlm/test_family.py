"""The contract of every registered VLM."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import actors.vlm.frozen
from actors.families.registry import VLMS
from actors.vlm.family import Vlm, load_vlm
from actors.vlm.likelihood import token_log_probs
from actors.vlm.qwen_tower import SEGMENTS
from tests.actors.vlm.obvious import own_inputs, own_mean_log_prob, own_processor
from toy.random_models.vlms import SPECIAL_TOKENS, TINY_VLMS

CPU = torch.device("cpu")
QUERY = "Describe this image in detail."
CAPTION = "a red circle left of a blue square"
LONG = "This is a photo of two green triangles,\nand **one** “yellow” square – 红色 é."


@pytest.fixture(scope="module", params=sorted(TINY_VLMS))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kind(case: str) -> str:
    return case.split()[0]


@pytest.fixture(scope="module")
def folder(case: str, tiny_vlms: dict[str, Path]) -> Path:
    return tiny_vlms[case]


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load_vlm(str(folder), torch.float32, CPU)


def draw(count: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def full_ids(vlm: Vlm, query: str, answer: str, images_KHWC: np.ndarray | None, include_eos: bool = False) -> tuple:
    batch = vlm.batch(images_KHWC, query, answer, include_eos)
    rows = batch.inputs["input_ids"].tolist()
    assert all(row == rows[0] for row in rows)
    return rows[0], batch


def test_every_registered_type_is_tried():
    assert {case.split()[0] for case in TINY_VLMS} == set(VLMS) == set(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("shape", "answer"), [((16, 16), CAPTION), ((17, 33), LONG), ((1, 1), CAPTION), ((9, 120), LONG)]
)
def test_it_equals_the_models_own_loss_on_the_models_own_inputs(
    vlm: Vlm, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], answer: str
):
    images = draw(2, *shape)
    scored = token_log_probs(vlm, images, QUERY, answer)
    ids, _ = full_ids(vlm, QUERY, answer, images)
    processor, model = own_processor(folder, kind, monkeypatch), AutoModelForImageTextToText.from_pretrained(folder)
    for image, log_probs_T in zip(images, scored.log_probs_KT, strict=True):
        mean, own_ids = own_mean_log_prob(model, processor, image, QUERY, answer)
        assert ids == own_ids
        assert log_probs_T.mean() == pytest.approx(mean, abs=1e-5)
    assert np.ptp(scored.log_probs_KT.mean(1)) > 1e-4, "the image makes a difference"


def test_without_an_image_there_is_one_row_and_the_models_own_loss(
    vlm: Vlm, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    token_log_probs(vlm, draw(2), QUERY, CAPTION)  # what a model keeps of an image must not stay
    scored = token_log_probs(vlm, None, QUERY, CAPTION)
    processor, model = own_processor(folder, kind, monkeypatch), AutoModelForImageTextToText.from_pretrained(folder)
    mean, own_ids = own_mean_log_prob(model, processor, None, QUERY, CAPTION)
    assert full_ids(vlm, QUERY, CAPTION, None)[0] == own_ids
    assert scored.log_probs_KT.mean(1) == pytest.approx([mean], abs=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (17, 33), (1, 1), (120, 9)])
def test_pixels_are_the_processors_own_to_the_bit(
    vlm: Vlm, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
):
    images = draw(2, *shape)
    pixels = vlm.batch(images, QUERY, CAPTION, False).inputs["pixel_values"]
    processor = own_processor(folder, kind, monkeypatch)
    own = [own_inputs(processor, image, QUERY, None)["pixel_values"] for image in images]
    assert torch.equal(pixels.flatten(), torch.cat([tensor.flatten() for tensor in own]))


def test_the_answer_stands_at_the_end_of_every_row_and_has_all_labels(vlm: Vlm):
    for answer in (CAPTION, LONG, " a", "é\n"):
        ids, batch = full_ids(vlm, QUERY, answer, draw(3))
        assert ids[batch.answer_start :] == batch.answer_ids_T.tolist()
        assert len(batch.tokens) == len(batch.answer_ids_T)
        assert "".join(batch.tokens) == answer


@pytest.mark.parametrize("with_image", [True, False])
def test_the_prefix_is_the_same_for_every_answer(vlm: Vlm, with_image: bool):
    images = draw(1) if with_image else None
    for answer in (CAPTION, "circle", " a", "é\n"):
        ids, batch = full_ids(vlm, QUERY, answer, images)
        other, other_batch = full_ids(vlm, QUERY, "two", images)
        assert ids[: batch.answer_start] == other[: other_batch.answer_start]
        assert batch.answer_start < len(ids)


def test_the_answers_ids_do_not_depend_on_the_prefix(vlm: Vlm):
    prefixes = [(images, query) for images in (None, draw(2), draw(1, 17, 33)) for query in (QUERY, "photo?")]
    batches = [vlm.batch(images, query, CAPTION, False) for images, query in prefixes]
    assert all(batch.answer_ids_T.tolist() == batches[0].answer_ids_T.tolist() for batch in batches)


def test_the_end_token_is_one_more_label(vlm: Vlm):
    without, batch = full_ids(vlm, QUERY, CAPTION, draw(1))
    ids, batch_eos = full_ids(vlm, QUERY, CAPTION, draw(1), include_eos=True)
    assert ids[:-1] == without
    assert ids[-1] == vlm.tokenizer.eos_token_id  # type: ignore[attr-defined]
    assert len(batch_eos.answer_ids_T) == len(batch.answer_ids_T) + 1


@pytest.mark.parametrize("between", ["", " ", "\n"])
def test_the_text_of_special_tokens_in_a_caption_is_plain_text(vlm: Vlm, kind: str, between: str):
    special = SPECIAL_TOKENS[kind]
    special_ids = set(vlm.tokenizer.convert_tokens_to_ids(list(special)))  # type: ignore[attr-defined]
    assert len(special_ids) == len(special)
    text = "a" + between + between.join(special) + between + "red"
    batch = vlm.batch(draw(2), QUERY, text, False)
    assert not special_ids & set(batch.answer_ids_T.tolist())
    assert "".join(batch.tokens) == text
    assert vlm.states(batch).isfinite().all()


def test_a_special_token_in_the_query_is_an_error(vlm: Vlm, kind: str):
    for token in SPECIAL_TOKENS[kind]:
        with pytest.raises(ValueError, match="special token"):
            vlm.batch(draw(1), f"what {token}?", CAPTION, False)


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_an_empty_answer_is_an_error(vlm: Vlm, answer: str):
    with pytest.raises(ValueError, match="empty"):
        vlm.batch(draw(1), QUERY, answer, False)


def test_a_text_longer_than_the_context_is_an_error_that_says_how_long(vlm: Vlm):
    _, batch = full_ids(vlm, QUERY, "red", draw(1))
    length = batch.answer_start + 4096
    with pytest.raises(ValueError, match=rf"^{length} tokens.* 4096: shorten the caption"):
        vlm.batch(draw(1), QUERY, "red" + " red" * 4095, False)


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (3, 3), (40, 40), (17, 33), (2, 90), (90, 2)])
def test_any_image_size_and_black_and_white_images_work(vlm: Vlm, shape: tuple[int, int]):
    images = np.zeros((2, *shape, 3), np.uint8)
    images[1] = 255
    images.setflags(write=False)  # as they come out of an object store
    states_KTD = vlm.states(vlm.batch(images, QUERY, CAPTION, False))
    assert states_KTD.isfinite().all()
    assert (states_KTD[0] - states_KTD[1]).abs().max() > 1e-3


def test_states_have_a_row_per_image_and_a_column_per_token(vlm: Vlm):
    batch = vlm.batch(draw(3), QUERY, CAPTION, False)
    states_KTD = vlm.states(batch)
    assert states_KTD.shape == (3, len(batch.answer_ids_T), vlm.lm_head.shape[1])
    assert not states_KTD.requires_grad


@pytest.mark.parametrize("shape", [(16, 16), (17, 33)])
def test_a_row_does_not_depend_on_its_batch(vlm: Vlm, shape: tuple[int, int]):
    images = draw(5, *shape)
    together = token_log_probs(vlm, images, QUERY, CAPTION).log_probs_KT
    alone = [token_log_probs(vlm, image[None], QUERY, CAPTION).log_probs_KT[0] for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [1, 200, 10**9])
def test_the_cut_into_passes_changes_nothing_but_rounding(vlm: Vlm, monkeypatch: pytest.MonkeyPatch, budget: int):
    images = draw(7, 17, 33)
    whole = token_log_probs(vlm, images, QUERY, CAPTION).log_probs_KT
    monkeypatch.setitem(actors.vlm.frozen.TOKENS_AT_ONCE, "cpu", budget)
    np.testing.assert_allclose(token_log_probs(vlm, images, QUERY, CAPTION).log_probs_KT, whole, atol=1e-5, rtol=0)


def test_a_repeat_gives_the_same_bits_whatever_was_scored_between(vlm: Vlm, folder: Path):
    first = token_log_probs(vlm, draw(4), QUERY, CAPTION).log_probs_KT
    token_log_probs(vlm, draw(2, 17, 33), QUERY, LONG)
    token_log_probs(vlm, None, QUERY, LONG)
    again = token_log_probs(vlm, draw(4), QUERY, CAPTION).log_probs_KT
    fresh = token_log_probs(load_vlm(str(folder), torch.float32, CPU), draw(4), QUERY, CAPTION).log_probs_KT
    assert first.tobytes() == again.tobytes() == fresh.tobytes()


def test_the_weights_are_those_of_the_folder(vlm: Vlm, folder: Path):
    own = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    loaded = vlm.model.state_dict()  # type: ignore[attr-defined]
    assert loaded.keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.items())
    assert torch.equal(vlm.lm_head, own["lm_head.weight"])


def test_it_is_frozen_and_its_attention_is_torchs(vlm: Vlm, kind: str):
    model = vlm.model  # type: ignore[attr-defined]
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    configs = (model.config, model.config.text_config, model.config.vision_config)
    tower = SEGMENTS if kind.startswith("qwen") else "sdpa"
    assert [config._attn_implementation for config in configs] == ["sdpa", "sdpa", tower]


def test_a_bfloat16_model_is_near_the_float32_one(vlm: Vlm, folder: Path):
    half = load_vlm(str(folder), torch.bfloat16, CPU)
    assert half.batch(draw(1), QUERY, CAPTION, False).inputs["pixel_values"].dtype == torch.bfloat16
    near = token_log_probs(half, draw(2), QUERY, CAPTION).log_probs_KT
    np.testing.assert_allclose(near, token_log_probs(vlm, draw(2), QUERY, CAPTION).log_probs_KT, atol=0.3)


def test_a_budget_of_pixels_is_kept_or_refused(vlm: Vlm, folder: Path, kind: str):
    if kind == "llava":
        with pytest.raises(ValueError, match=r"image_pixels = 256.*llava.*leave the key out"):
            load_vlm(str(folder), torch.float32, CPU, image_pixels=16**2)
        return
    small = load_vlm(str(folder), torch.float32, CPU, image_pixels=16**2)
    batch, full = (model.batch(draw(2, 64, 64), QUERY, CAPTION, False) for model in (small, vlm))
    assert batch.inputs["pixel_values"].numel() < full.inputs["pixel_values"].numel()
    assert batch.answer_start < full.answer_start
    assert small.states(batch).isfinite().all()
    with pytest.raises(ValueError, match=r"image_pixels = 10: one .* give that or more"):
        load_vlm(str(folder), torch.float32, CPU, image_pixels=10)


def test_a_path_without_a_model_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_vlm(str(tmp_path), torch.float32, CPU)


def test_an_unknown_kind_of_model_is_an_error_that_lists_the_known_ones(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"gpt2.*llava.*qwen3_vl"):
        load_vlm(str(tmp_path), torch.float32, CPU)
