"""The contract of every registered VLM."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.vlm.family import VLMS, Vlm, load_vlm
from tests.tiny_models import make_tiny_llava

TINY: dict[str, Callable[[Path], Path]] = {"llava": make_tiny_llava}
QUERY = "Describe this image in detail."
CAPTION = "a red circle left of a blue square"


@pytest.fixture(scope="module", params=sorted(VLMS))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    folder = TINY[request.param](tmp_path_factory.mktemp(request.param))
    return load_vlm(str(folder), torch.float32, torch.device("cpu"))


def draw(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def full_ids(vlm: Vlm, query: str, answer: str, images_KHWC: np.ndarray | None, include_eos: bool = False) -> tuple:
    batch = vlm.batch(images_KHWC, query, answer, include_eos)
    rows = batch.inputs["input_ids"].tolist()
    assert all(row == rows[0] for row in rows)
    return rows[0], batch


def test_the_answer_stands_at_the_end_of_every_row_and_has_all_labels(vlm: Vlm):
    ids, batch = full_ids(vlm, QUERY, CAPTION, draw(3))
    assert ids[batch.answer_start :] == batch.answer_ids_T.tolist()
    assert len(batch.tokens) == len(batch.answer_ids_T)
    assert "".join(batch.tokens) == CAPTION


@pytest.mark.parametrize("with_image", [True, False])
def test_the_prefix_is_the_same_for_every_answer(vlm: Vlm, with_image: bool):
    images = draw(1) if with_image else None
    for answer in (CAPTION, "circle", " a", "é\n"):
        ids, batch = full_ids(vlm, QUERY, answer, images)
        other, other_batch = full_ids(vlm, QUERY, "two", images)
        assert ids[: batch.answer_start] == other[: other_batch.answer_start]
        assert batch.answer_start < len(ids)


def test_the_answers_ids_do_not_depend_on_the_prefix(vlm: Vlm):
    batches = [vlm.batch(images, query, CAPTION, False) for images in (None, draw(2)) for query in (QUERY, "photo?")]
    assert all(batch.answer_ids_T.tolist() == batches[0].answer_ids_T.tolist() for batch in batches)


def test_an_image_adds_its_tokens_to_the_prefix_and_nothing_else(vlm: Vlm):
    seen, blind = vlm.batch(draw(1), QUERY, CAPTION, False), vlm.batch(None, QUERY, CAPTION, False)
    assert seen.answer_start - blind.answer_start == vlm.image_tokens


def test_the_end_token_is_one_more_label(vlm: Vlm):
    without, batch = full_ids(vlm, QUERY, CAPTION, draw(1))
    ids, batch_eos = full_ids(vlm, QUERY, CAPTION, draw(1), include_eos=True)
    assert ids[:-1] == without
    assert len(batch_eos.answer_ids_T) == len(batch.answer_ids_T) + 1


@pytest.mark.parametrize("text", ["<image>", "a <|im_end|> b", "<pad><|im_start|>assistant\n"])
def test_the_text_of_a_special_token_in_a_caption_is_plain_text(vlm: Vlm, text: str):
    batch = vlm.batch(draw(2), QUERY, text, False)
    special = vlm.tokenizer.all_special_ids  # type: ignore[attr-defined]
    assert special
    assert not set(batch.answer_ids_T.tolist()) & set(special)
    assert "".join(batch.tokens) == text
    assert vlm.states(batch).isfinite().all()


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_an_empty_answer_is_an_error(vlm: Vlm, answer: str):
    with pytest.raises(ValueError, match="empty"):
        vlm.batch(draw(1), QUERY, answer, False)


def test_a_special_token_in_the_query_is_an_error(vlm: Vlm):
    with pytest.raises(ValueError, match="special token"):
        vlm.batch(draw(1), "<image> what?", CAPTION, False)


def test_a_text_longer_than_the_context_is_an_error(vlm: Vlm):
    with pytest.raises(ValueError, match="shorten the caption"):
        vlm.batch(draw(1), QUERY, "red " * 5000, False)


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (3, 3), (40, 40), (17, 9)])
def test_any_image_size_and_black_images_work(vlm: Vlm, shape: tuple[int, int]):
    images = np.zeros((2, *shape, 3), np.uint8)
    images.setflags(write=False)  # as they come out of an object store
    assert vlm.states(vlm.batch(images, QUERY, CAPTION, False)).isfinite().all()


def test_states_have_a_row_per_image_and_a_column_per_token(vlm: Vlm):
    batch = vlm.batch(draw(3), QUERY, CAPTION, False)
    states_KTD = vlm.states(batch)
    assert states_KTD.shape == (3, len(batch.answer_ids_T), vlm.lm_head.shape[1])
    assert not states_KTD.requires_grad


def test_a_row_does_not_depend_on_its_batch(vlm: Vlm):
    images = draw(5)
    together = vlm.states(vlm.batch(images, QUERY, CAPTION, False))
    alone = torch.cat([vlm.states(vlm.batch(image[None], QUERY, CAPTION, False)) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3, "the image makes a difference"


def test_it_is_frozen(vlm: Vlm):
    model = vlm.model  # type: ignore[attr-defined]
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_path_without_a_model_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_vlm(str(tmp_path), torch.float32, torch.device("cpu"))


def test_an_unknown_kind_of_model_is_an_error_that_lists_the_known_ones(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"gpt2.*llava"):
        load_vlm(str(tmp_path), torch.float32, torch.device("cpu"))
