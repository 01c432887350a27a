"""PromptEcho's definition, option by option."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.messages import Prompt
from actors.reward.kinds.promptecho import PromptEcho, PromptEchoOptions
from actors.vlm.family import VlmBatch
from actors.vlm.likelihood import token_log_probs
from toy.random_models.vlms import make_tiny_qwen_vl

PROMPT = Prompt("0", "a red circle left of a blue square")
IMAGES = np.random.default_rng(3).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mean(tiny_llava: Path) -> PromptEcho:
    return PromptEchoOptions(model=str(tiny_llava)).load()


def test_the_mean_is_the_mean_of_the_tokens_log_probs(mean: PromptEcho):
    log_probs_KT = token_log_probs(mean.vlm, IMAGES, "Describe this image in detail.", PROMPT.caption).log_probs_KT
    scores = mean.score(IMAGES, PROMPT)
    assert scores.rewards_K == pytest.approx(log_probs_KT.mean(1).tolist(), abs=1e-6)
    assert scores.metrics == {"mean_log_prob": scores.rewards_K}
    assert all(reward < 0 for reward in scores.rewards_K)


def test_the_sum_is_t_times_the_mean(mean: PromptEcho, tiny_llava: Path):
    total = PromptEchoOptions(model=str(tiny_llava), reduction="sum").load().score(IMAGES, PROMPT)
    count = len(mean.explain(IMAGES, PROMPT)[1].tokens)
    assert total.rewards_K == pytest.approx(
        [count * value for value in mean.score(IMAGES, PROMPT).rewards_K], rel=1e-12
    )


def test_the_end_token_is_one_label_more(mean: PromptEcho, tiny_llava: Path):
    with_eos = PromptEchoOptions(model=str(tiny_llava), include_eos=True).load()
    (_, short), (_, long) = mean.explain(IMAGES, PROMPT), with_eos.explain(IMAGES, PROMPT)
    assert long.tokens == (*short.tokens, "<|im_end|>")
    np.testing.assert_allclose(long.log_probs_KT[:, :-1], short.log_probs_KT, atol=1e-5)
    expected = long.log_probs_KT.mean(1, dtype=np.float64)
    assert with_eos.score(IMAGES, PROMPT).rewards_K == pytest.approx(expected.tolist())


def test_exp_is_the_geometric_mean_of_the_tokens_probabilities(mean: PromptEcho, tiny_llava: Path):
    bounded = PromptEchoOptions(model=str(tiny_llava), transform="exp").load().score(IMAGES, PROMPT)
    raw = mean.score(IMAGES, PROMPT)
    assert bounded.rewards_K == pytest.approx([math.exp(value) for value in raw.rewards_K])
    assert bounded.metrics["mean_log_prob"] == raw.rewards_K


def test_the_query_is_what_the_vlm_is_asked(mean: PromptEcho, tiny_llava: Path):
    same = PromptEchoOptions(model=str(tiny_llava), query="Describe this image in detail.").load()
    other = PromptEchoOptions(model=str(tiny_llava), query="photo of").load()
    assert same.score(IMAGES, PROMPT).rewards_K == mean.score(IMAGES, PROMPT).rewards_K
    assert other.score(IMAGES, PROMPT).rewards_K != mean.score(IMAGES, PROMPT).rewards_K


def test_the_gain_is_over_the_caption_without_an_image(mean: PromptEcho, tiny_llava: Path):
    reward = PromptEchoOptions(model=str(tiny_llava), log_gain=True).load()
    scores = reward.score(IMAGES, PROMPT)
    blind = token_log_probs(mean.vlm, None, mean.options.query, PROMPT.caption).log_probs_KT.mean(dtype=np.float64)
    assert scores.metrics["gain"] == pytest.approx([value - blind for value in scores.rewards_K])
    assert scores.rewards_K == mean.score(IMAGES, PROMPT).rewards_K


def test_the_caption_without_an_image_is_scored_once(tiny_llava: Path):
    reward = PromptEchoOptions(model=str(tiny_llava), log_gain=True).load()
    inner, rows = reward.vlm.states, []

    def counted(batch: VlmBatch) -> torch.Tensor:
        rows.append("pixel_values" in batch.inputs)
        return inner(batch)

    reward.vlm.states = counted  # type: ignore[method-assign]
    for _ in range(3):
        reward.score(IMAGES, PROMPT)
    assert rows.count(False) == 1
    assert rows.count(True) == 3


def test_a_nan_stays_a_nan_for_its_image_alone(tiny_llava: Path):
    reward = PromptEchoOptions(model=str(tiny_llava), log_gain=True).load()
    whole = reward.score(IMAGES, PROMPT)
    inner = reward.vlm.states

    def one_broken(batch: VlmBatch) -> torch.Tensor:
        states_KTD = inner(batch).clone()
        states_KTD[2, 0, 0] = math.nan
        return states_KTD

    reward.vlm.states = one_broken  # type: ignore[method-assign]
    scores = reward.score(IMAGES, PROMPT)
    for got, expected in [
        (scores.rewards_K, whole.rewards_K),
        *zip(scores.metrics.values(), whole.metrics.values(), strict=True),
    ]:
        assert math.isnan(got[2])
        assert [*got[:2], got[3]] == [*expected[:2], expected[3]]


def test_a_budget_of_pixels_is_kept_for_every_image(tmp_path: Path):
    """Images of one colour: shrunk to the budget's 16 x 16 px, they are those of 16 x 16 px."""
    folder = str(make_tiny_qwen_vl(tmp_path, "qwen3_vl"))
    flat = np.broadcast_to(IMAGES[:, :1, :1], (4, 32, 32, 3))
    budget, full = (PromptEchoOptions(model=folder, image_pixels=pixels).load() for pixels in (16**2, None))
    small = full.score(np.ascontiguousarray(flat[:, :16, :16]), PROMPT)
    assert budget.score(flat, PROMPT).rewards_K == small.rewards_K
    assert full.score(flat, PROMPT).rewards_K != small.rewards_K


def test_the_judge_gets_no_gradient(mean: PromptEcho):
    parameters = list(mean.vlm.model.parameters())  # type: ignore[attr-defined]
    before = [parameter.clone() for parameter in parameters]
    with torch.enable_grad():
        mean.score(IMAGES, PROMPT)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in parameters)
    assert all(torch.equal(parameter, old) for parameter, old in zip(parameters, before, strict=True))
