"""CLIP score against transformers' own forward of the whole model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from actors.messages import Prompt
from actors.reward.kinds.clip_score import ClipScoreOptions

IMAGES = np.random.default_rng(3).integers(0, 256, (10, 24, 16, 3), dtype=np.uint8)  # more than go through at once
SHORT, LONG = "a red circle left of a blue square", "a red circle " * 20


def whole(folder: Path, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosines, logits) of the model's own forward, one image at a time."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    ids = tokenizer(caption, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    cosines, logits = [], []
    for image in IMAGES:
        pixels = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
        with torch.no_grad():
            found = model(input_ids=ids, pixel_values=pixels)
        cosines.append((found.image_embeds @ found.text_embeds.T)[0, 0])
        logits.append(found.logits_per_image[0, 0])
    return torch.stack(cosines), torch.stack(logits)


@pytest.mark.parametrize("caption", [SHORT, LONG])
def test_it_is_the_models_own_cosine_or_its_own_logit(tiny_encoder: Path, caption: str):
    cosines, logits = whole(tiny_encoder, caption)
    for scale, expected in (("cosine", cosines), ("logit", logits)):
        scores = ClipScoreOptions(model=str(tiny_encoder), scale=scale).load().score(IMAGES, Prompt("0", caption))
        assert scores.rewards_K == pytest.approx(expected.tolist(), abs=2e-5)
    assert np.ptp(cosines.numpy()) > 0.05


def test_tokens_that_the_model_does_not_read_are_counted(tiny_encoder: Path):
    reward = ClipScoreOptions(model=str(tiny_encoder)).load()
    count = len(reward.encoder.tokenizer(LONG).input_ids)
    assert reward.score(IMAGES[:2], Prompt("0", SHORT)).metrics == {"caption_tokens_cut": (0.0, 0.0)}
    cut = float(count - reward.encoder.length)
    assert reward.score(IMAGES[:2], Prompt("0", LONG)).metrics == {"caption_tokens_cut": (cut, cut)}


def test_an_embedding_that_is_no_number_or_nothing_gives_no_number_for_its_image_alone(tiny_encoder: Path):
    reward = ClipScoreOptions(model=str(tiny_encoder)).load()
    expected = reward.score(IMAGES, Prompt("0", SHORT)).rewards_K
    inner = reward.encoder.model.get_image_features

    def broken(pixels):
        found = inner(pixels)
        if len(pixels) > 2:
            found.pooler_output = found.pooler_output.clone()
            found.pooler_output[0, 0], found.pooler_output[1] = torch.nan, 0.0
        return found

    reward.encoder.model.get_image_features = broken
    got = reward.score(IMAGES, Prompt("0", SHORT)).rewards_K
    assert np.isnan(got[:2]).all()
    assert got[2:] == expected[2:]
