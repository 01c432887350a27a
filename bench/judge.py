"""PromptEcho on one vision-language model against the obvious way: images and tokens per second, and shares of the machine's peak.

Called by `python -m bench.reward --model`. The obvious way is one image per forward and the model's own loss with full logits.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from transformers import AutoImageProcessor, LlavaProcessor

from actors.messages import Prompt
from actors.reward.kinds.promptecho import QUERY, PromptEcho, PromptEchoOptions
from actors.vlm.qwen_tower import as_it_comes
from bench.flops import vlm as vlm_flops
from bench.full_size_judge import VLMS, judge
from bench.hardware import median_of_pairs, peak_memory, take_turns

AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # nats per token
WORDS = "a red circle left of a blue square and a green triangle above a yellow circle".split()
TINY = {"size": 64, "tokens": 20, "group": 4}
USUAL = {"size": 1024, "tokens": 300, "group": 16}


def options_of(parser: argparse.ArgumentParser) -> None:
    """Adds what belongs to `--model`."""
    group = parser.add_argument_group("one model")
    group.add_argument("--model", help=f"a folder, or one of {', '.join(VLMS)} with random weights")
    group.add_argument("--tiny", action="store_true", help="a narrow model of the same make")
    group.add_argument("--tokens", type=int, help="of the caption (300; 20 with --tiny)")
    group.add_argument("--size", type=int, help="pixels of an edge (1024; 64 with --tiny)")
    group.add_argument("--group", type=int, help="images of the caption (16; 4 with --tiny)")


def load_judge(options: argparse.Namespace, device: torch.device, dtype: torch.dtype, folder: Path) -> PromptEcho:
    """The reward: a named architecture is made, in `folder` where it is written at all; anything else is loaded."""
    if options.model in VLMS:
        return judge(options.model, device, dtype, options.tiny, folder)
    keys = {"model": options.model, "device": device.type, "dtype": str(dtype).removeprefix("torch.")}
    return PromptEchoOptions.model_validate(keys).load()


class Obvious:
    """One image per forward through the model that the reward holds, with inputs made anew for each image."""

    def __init__(self, reward: PromptEcho, folder: str) -> None:
        vlm: Any = reward.vlm
        self.model, self.tokenizer = vlm.model, vlm.tokenizer
        content = [{"type": "image"}, {"type": "text", "text": QUERY}]
        chat = [{"role": "user", "content": content}]
        self.chat = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        if self.model.config.model_type == "llava":
            self.processor = LlavaProcessor.from_pretrained(folder)
            self.inputs = self.llava_inputs
        else:
            self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
            self.inputs = self.qwen_inputs

    def llava_inputs(self, image: Image.Image, caption: str) -> dict[str, Any]:
        """Of the model's own processor."""
        return dict(self.processor(images=image, text=self.chat + caption, return_tensors="pt"))

    def qwen_inputs(self, image: Image.Image, caption: str) -> dict[str, Any]:
        """What the model's own processor makes, by hand: that one needs torchvision for videos."""
        pixels = self.processor(images=image, return_tensors="pt")
        token = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        count = int(pixels["image_grid_thw"].prod()) // self.processor.merge_size**2
        ids = self.tokenizer((self.chat + caption).replace(token, token * count), return_tensors="pt").input_ids
        return {**pixels, "input_ids": ids, "mm_token_type_ids": (ids == self.model.config.image_token_id).int()}

    def score(self, images_KHWC: np.ndarray, caption: str) -> list[float]:
        """Minus the model's loss for each image, by transformers' own vision tower."""
        visual = getattr(self.model.model, "visual", None)
        with torch.inference_mode(), as_it_comes(visual) if visual is not None else nullcontext():
            return self._score(images_KHWC, caption)

    def _score(self, images_KHWC: np.ndarray, caption: str) -> list[float]:
        num_labels = len(self.tokenizer(caption, add_special_tokens=False).input_ids)
        rewards = []
        for image_HWC in images_KHWC:
            inputs = self.inputs(Image.fromarray(image_HWC), caption)
            moved = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
            moved["pixel_values"] = moved["pixel_values"].to(self.model.dtype)
            labels = moved["input_ids"].clone()
            labels[:, :-num_labels] = -100
            rewards.append(-self.model(**moved, labels=labels, use_cache=False).loss.item())
        return rewards


def flop_per_image(reward: PromptEcho, size: int, tokens: int, predicted: int) -> float:
    """What the likelihood of `predicted` tokens needs in a row of `tokens`: vision tower, language model, and the head on these."""
    vlm: Any = reward.vlm
    config = vlm.model.config.to_dict()
    edge = config["vision_config"]["patch_size"]
    if hasattr(vlm.image_processor, "merge_size"):
        cut = vlm.image_processor(images=Image.new("RGB", (size, size)), return_tensors="pt")
        patches = tuple(cut["image_grid_thw"][0, 1:].tolist())
    else:
        patches = (config["vision_config"]["image_size"] // edge,) * 2
    return vlm_flops(config, patches, tokens, predicted).forward


def measure(options: argparse.Namespace, device: torch.device, dtype: torch.dtype, peak: float) -> dict[str, Any]:
    """Both ways on one group, and apart the work on the CPU before the forward. Raises RuntimeError where they disagree."""
    caption = " ".join(WORDS[i % len(WORDS)] for i in range(options.tokens))
    shape = (options.group, options.size, options.size, 3)
    images_KHWC = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with TemporaryDirectory() as temporary:
        reward = load_judge(options, device, dtype, Path(temporary))
        obvious = Obvious(reward, temporary if options.model in VLMS else options.model)
    ways: dict[str, Callable[[], Any]] = {
        "obvious": lambda: obvious.score(images_KHWC, caption),
        "echo": lambda: list(reward.score(images_KHWC, Prompt("0", caption)).rewards_K),
    }
    difference = float(np.abs(np.subtract(ways["obvious"](), ways["echo"]())).max())
    if not difference < AGREEMENT[dtype]:
        raise RuntimeError(f"the two ways disagree by {difference} nats per token")
    batch = reward.vlm.batch(images_KHWC, QUERY, caption, False)
    parts = {
        "prepare": lambda: reward.vlm.batch(images_KHWC, QUERY, caption, False),
        "forward": lambda: reward.vlm.states(batch),
    }
    peaks = {}
    for name, way in ways.items():
        with peak_memory(device.type) as memory:
            way()
        peaks[name] = memory.mb
    seconds = take_turns(ways | parts, options.repeats, device.type)
    tokens = batch.inputs["input_ids"].shape[1]
    flop = flop_per_image(reward, options.size, tokens, len(batch.answer_ids_T))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rates = {way: options.group / medians[way] for way in ways}
    return {
        "tokens_of_a_row": tokens,
        "tflop_per_image": flop / 1e12,
        "seconds": medians,
        "images_per_s": rates,
        "tokens_per_s": {way: rate * tokens for way, rate in rates.items()},
        "flop_per_s": {way: rate * flop for way, rate in rates.items()},
        "share_of_peak": {way: rate * flop / peak for way, rate in rates.items()},
        "ratio": median_of_pairs(seconds["obvious"], seconds["echo"]),
        "peak_mb": peaks,
        "difference": difference,
    }


def table(results: dict[str, Any]) -> Table:
    """A line per way."""
    title = (
        f"{results['model']}, {results['group']} images of {results['size']} px, caption of {results['tokens']} tokens in rows of "
        f"{results['tokens_of_a_row']}, {results['tflop_per_image']:.3g} TFLOP an image"
    )
    made = Table("", "images/s", "tokens/s", "TFLOP/s", "share\nof peak", "peak MB", title=title)
    for way in ("obvious", "echo"):
        made.add_row(
            way, f"{results['images_per_s'][way]:.3g}", f"{results['tokens_per_s'][way]:.3g}",
            f"{results['flop_per_s'][way] / 1e12:.3g}", f"{results['share_of_peak'][way]:.2f}", f"{results['peak_mb'][way]:.0f}",
        )  # fmt: skip
    prepare, forward = (results["seconds"][part] / results["seconds"]["echo"] for part in ("prepare", "forward"))
    shares = f"of its time {prepare:.2f} for pixels and ids, {forward:.2f} for the forward"
    made.caption = f"echo is [bold]{results['ratio']:.2f}[/] times as fast; {shares}"
    return made
