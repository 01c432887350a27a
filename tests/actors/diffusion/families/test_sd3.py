"""What is SD3's own: a T5 that may be left out."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline

from actors.diffusion.family import LoadOptions, load_family
from pipelines.preflight.memory.models import image_model
from toy.random_models.sd3 import make_tiny_sd3


def test_asked_for_no_tokens_of_t5_it_reads_captions_as_the_pipeline_without_t5(tmp_path: Path) -> None:
    """T5 is not loaded, zero vectors stand in its place, and the estimate knows both."""
    folder = str(make_tiny_sd3(tmp_path / "t5", with_t5=True))
    family = load_family(folder, LoadOptions(torch.device("cpu"), torch.float32, decoder=True, max_sequence_length=0))
    assert family.pipeline.text_encoder_3 is None
    own = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    expected = own.encode_prompt("a red circle", None, None, do_classifier_free_guidance=False)[0]
    found = family.encode(["a red circle"]).tensors["prompt_embeds"]
    assert torch.equal(found, expected)
    shape = image_model(folder).shape(0)
    assert found.shape[1:] == (shape.text, shape.caption_width)
    assert found[:, -shape.unread :].abs().max() == 0 < found[:, : -shape.unread].abs().max()
    assert set(image_model(folder).loaded(0).encoders) == {"text_encoder", "text_encoder_2"}
    assert len(image_model(folder).loaded(64).encoders) == 3
