"""VQAScore against transformers' own forward, and on a judge whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from actors.messages import Prompt
from actors.reward.kinds.vqa_score import VqaScoreOptions
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import parse_recipe

IMAGES = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
CAPTION = "a red circle left of a blue square"


def test_it_is_the_probability_of_yes_after_the_question(tiny_llava: Path):
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
    processor = LlavaProcessor.from_pretrained(tiny_llava)
    question = f'Does this figure show "{CAPTION}"? Please answer yes or no.'
    content = [{"type": "image"}, {"type": "text", "text": question}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    yes = processor.tokenizer("Yes", add_special_tokens=False).input_ids
    expected = []
    for image in IMAGES:
        inputs = processor(images=Image.fromarray(image), text=chat + "Yes", return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits[0].softmax(-1)
        at = range(len(probabilities) - len(yes) - 1, len(probabilities) - 1)
        expected.append(float(np.prod([probabilities[row, token] for row, token in zip(at, yes, strict=True)])))
    scores = VqaScoreOptions(model=str(tiny_llava)).load().score(IMAGES, Prompt("0", CAPTION))
    assert scores.rewards_K == pytest.approx(expected, rel=1e-4)
    assert all(0 < reward < 1 for reward in scores.rewards_K)


def test_a_caption_with_a_special_tokens_text_fails_its_group_and_not_the_run(tiny_llava: Path):
    reward = VqaScoreOptions(model=str(tiny_llava)).load()
    with pytest.raises(ValueError, match="special token") as error:
        reward.score(IMAGES, Prompt("0", "a <image> in a frame"))
    assert type(error.value) is ValueError  # not Mistake, which would end the run


def test_a_question_without_a_place_for_the_caption_is_a_mistake():
    tables = {"loop": {"steps": 1}, "data": {"train": "x"}, "rollout": {}, "policy": {"model": "m"}}
    with pytest.raises(UserError, match=r"write \{caption\} where the caption belongs"):
        parse_recipe({**tables, "reward": {"type": "vqa_score", "model": "m", "question": "Is it good?"}}, "it")
