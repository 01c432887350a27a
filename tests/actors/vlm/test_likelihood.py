"""The likelihood against slow versions, and what it holds at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import actors.vlm.likelihood
from actors.vlm.family import Vlm, load_vlm
from actors.vlm.likelihood import picked_log_probs, token_log_probs
from toy.random_models.vlms import WORDS, make_tiny_llava

QUERY = "Describe this image in detail."
CAPTION = "a red circle left of a blue square , two triangle <image> é"


def draw(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def one_token_at_a_time(folder: Path, images_KHWC: np.ndarray, ids: list[int]) -> np.ndarray:
    """[K, T] the slow way: per image and token a forward of the whole model, and a softmax over the last logits."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": QUERY}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    rows = []
    for image_HWC in images_KHWC:
        inputs = processor(images=Image.fromarray(image_HWC), text=chat, return_tensors="pt")
        row, so_far = [], inputs.input_ids
        for token in ids:
            with torch.no_grad():
                logits = model(input_ids=so_far, pixel_values=inputs.pixel_values).logits[0, -1]
            row.append(logits.log_softmax(-1)[token].item())
            so_far = torch.cat([so_far, torch.tensor([[token]])], dim=1)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("include_eos", [False, True])
def test_it_equals_a_naive_loop_alone_and_in_a_batch(tiny_llava: Path, llava: Vlm, include_eos: bool):
    images = draw(3)
    ids = llava.batch(None, QUERY, CAPTION, include_eos).answer_ids_T.tolist()
    slow_KT = one_token_at_a_time(tiny_llava, images, ids)
    batch_KT = token_log_probs(llava, images, QUERY, CAPTION, include_eos).log_probs_KT
    assert np.abs(batch_KT - slow_KT).max() < 1e-5
    for k, image in enumerate(images):
        alone = token_log_probs(llava, image[None], QUERY, CAPTION, include_eos).log_probs_KT
        assert np.abs(alone[0] - slow_KT[k]).max() < 1e-5
    assert np.ptp(slow_KT.mean(1)) > 1e-3, "the images make a difference"


def test_a_caption_of_400_words_equals_one_full_forward(tiny_llava: Path, llava: Vlm):
    caption = " ".join(WORDS[i % 20] for i in range(400))
    scored = token_log_probs(llava, draw(5), QUERY, caption)
    assert scored.log_probs_KT.shape == (5, 400)
    batch = llava.batch(draw(5), QUERY, caption, False)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
    with torch.no_grad():
        logits = model(**batch.inputs).logits[:, batch.answer_start - 1 : -1].double().log_softmax(-1)
    full_KT = logits[:, torch.arange(400), batch.answer_ids_T]
    assert np.abs(scored.log_probs_KT - full_KT.numpy()).max() < 1e-5


def test_a_repeat_gives_the_same_bits(llava: Vlm):
    first, again = (token_log_probs(llava, draw(4), QUERY, CAPTION).log_probs_KT for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_the_same_image_twice_gives_the_same_bits(llava: Vlm):
    images = np.repeat(draw(1), 2, axis=0)
    first, second = token_log_probs(llava, images, QUERY, CAPTION).log_probs_KT
    assert first.tobytes() == second.tobytes()


def test_without_an_image_there_is_one_row(tiny_llava: Path, llava: Vlm):
    batch = llava.batch(None, QUERY, CAPTION, False)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
    with torch.no_grad():
        log_probs = model(input_ids=batch.inputs["input_ids"]).logits[0, batch.answer_start - 1 : -1].log_softmax(-1)
    expected = log_probs.gather(1, batch.answer_ids_T[:, None])[:, 0].numpy()
    np.testing.assert_allclose(token_log_probs(llava, None, QUERY, CAPTION).log_probs_KT[0], expected, atol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 4096])
@pytest.mark.parametrize("logits_at_once", [1, 100, 2**19])
def test_chunks_of_tokens_and_of_the_vocabulary_change_nothing(
    monkeypatch: pytest.MonkeyPatch, chunk_tokens: int, logits_at_once: int
):
    monkeypatch.setitem(actors.vlm.likelihood.LOGITS_AT_ONCE, "cpu", logits_at_once)
    generator = torch.Generator().manual_seed(0)
    states = 5 * torch.randn(13, 8, generator=generator)
    lm_head = torch.randn(57, 8, generator=generator)
    ids = torch.randint(57, (13,), generator=generator)
    expected = (states.double() @ lm_head.double().T).log_softmax(-1)[torch.arange(13), ids]
    log_probs = picked_log_probs(states, ids, lm_head, chunk_tokens)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), expected, atol=1e-5, rtol=0)


def test_large_logits_neither_overflow_nor_vanish():
    states, lm_head = torch.tensor([[1.0], [-1.0]]), torch.tensor([[300.0], [-300.0], [0.0]])
    log_probs = picked_log_probs(states, torch.tensor([1, 1]), lm_head, 8)
    assert log_probs.tolist() == [-600.0, 0.0]


def test_a_certain_token_is_never_above_zero():
    states = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    lm_head = torch.cat([10 * states, torch.zeros(1, 100)])
    log_probs = picked_log_probs(states, torch.arange(200), lm_head, 8)
    assert log_probs.max() == 0


def test_bfloat16_states_are_multiplied_and_summed_in_float32():
    generator = torch.Generator().manual_seed(0)
    states = (4 * torch.randn(32, 64, generator=generator)).bfloat16()
    lm_head = torch.randn(500, 64, generator=generator).bfloat16()
    ids = torch.randint(500, (32,), generator=generator)
    exact = (states.double() @ lm_head.double().T).log_softmax(-1)[torch.arange(32), ids]
    ours = picked_log_probs(states, ids, lm_head, 16).double()
    rounded = (states @ lm_head.T).double().log_softmax(-1)[torch.arange(32), ids]
    assert (ours - exact).abs().max() < 1e-4 < (rounded - exact).abs().max()


def test_a_bfloat16_model_is_near_the_float32_one(tiny_llava: Path, llava: Vlm):
    half = load_vlm(str(tiny_llava), torch.bfloat16, torch.device("cpu"))
    near = token_log_probs(half, draw(2), QUERY, CAPTION).log_probs_KT
    assert near.dtype == np.float32
    np.testing.assert_allclose(near, token_log_probs(llava, draw(2), QUERY, CAPTION).log_probs_KT, atol=0.3)


def test_an_image_that_overflows_the_model_is_nan_and_touches_no_other(tmp_path: Path):
    folder = make_tiny_llava(tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.model.vision_tower.embeddings.patch_embedding.weight.fill_(1e38)
    model.save_pretrained(folder)
    vlm = load_vlm(str(folder), torch.float32, torch.device("cpu"))
    images = np.zeros((3, 16, 16, 3), np.uint8)  # black is 0 for the model, white overflows
    black_KT = token_log_probs(vlm, images, QUERY, CAPTION).log_probs_KT
    images[1] = 255
    log_probs_KT = token_log_probs(vlm, images, QUERY, CAPTION).log_probs_KT
    assert np.isnan(log_probs_KT[1]).all()
    assert log_probs_KT[[0, 2]].tobytes() == black_KT[[0, 2]].tobytes()


def test_a_real_vocabulary_never_has_its_logits_held(tmp_path: Path):
    vlm = load_vlm(str(make_tiny_llava(tmp_path, vocab_size=150_000, width=8)), torch.float32, torch.device("cpu"))
    caption = " ".join(["red"] * 200)
    token_log_probs(vlm, draw(1), QUERY, caption)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        token_log_probs(vlm, draw(4), QUERY, caption)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 4 * actors.vlm.likelihood.LOGITS_AT_ONCE["cpu"] < 4 * 4 * 200 * 150_000 / 100


def test_torch_multiplies_16_bits_into_float32_where_a_gpu_does_it():
    """On CUDA; a CPU knows only the shapes and types of it."""
    states, head = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((3, 8), (5, 8)))
    logits = actors.vlm.likelihood._on_tensor_cores(states, head)
    assert (logits.shape, logits.dtype) == ((3, 5), torch.float32)
    assert not actors.vlm.likelihood.sums_in_float32(torch.empty(3, 8, dtype=torch.bfloat16))
