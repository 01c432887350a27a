"""Scoring on a GPU, by parts: the host's work, the patch embedding, the tower, the language model and the head. Needs no diffusers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from actors.device import pick_device, pick_dtype
from actors.messages import Prompt
from actors.reward.kinds.promptecho import QUERY, PromptEcho
from actors.vlm.likelihood import picked_log_probs
from bench.full_size_judge import judge
from bench.gpu_case import Case, Expected
from bench.gpu_watch import peak_of, see
from bench.hardware import wait

WORDS = "a red circle left of a blue square and a green triangle above a yellow circle".split()
INSIDE = {"patch_embedding": "visual.patch_embed", "tower": "visual", "language_model": "language_model"}
TURNS = 2


def measure(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """A group as a reward worker gets it, then each part of it alone."""
    device = pick_device(case.device)
    dtype, size = pick_dtype("auto", device), case.size
    expected = Expected(
        case, size.scored_pixels, size.scored_images, size.scored_tokens, peak_of(device, dtype, case.tiny)
    )
    with TemporaryDirectory() as temporary:
        made = see(lambda: judge(case.judge, device, dtype, case.tiny, Path(temporary)), device)
    reward = made.value
    yield "made", {"seconds": made.seconds}
    caption = " ".join(WORDS[i % len(WORDS)] for i in range(size.scored_tokens))
    shape = (size.scored_images, size.scored_pixels, size.scored_pixels, 3)
    images_KHWC = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    seen = [see(lambda: reward.score(images_KHWC, Prompt("0", caption)).rewards_K, device) for _ in range(1 + TURNS)]
    seconds = statistics.median(turn.seconds for turn in seen[1:])
    yield "score", {
        **expected.speed("score", seconds), **expected.memory("reward", "forward passes", seen[-1].reserved),
        "first_seconds": seen[0].seconds, "same_bits_twice": seen[1].value == seen[2].value,
    }  # fmt: skip
    yield "parts", parts_of(reward, images_KHWC, caption, device)


@torch.inference_mode()
def parts_of(reward: PromptEcho, images_KHWC: np.ndarray, caption: str, device: torch.device) -> dict[str, float]:
    """Seconds of each part, waited for one by one; the tower has the patch embedding in it, the forward has both."""
    vlm: Any = reward.vlm
    batch = vlm.batch(images_KHWC, QUERY, caption, False)
    clocks: dict[str, Clock] = {
        name: Clock(vlm.model.model.get_submodule(path), device) for name, path in INSIDE.items()
    }
    states_KTD = vlm.states(batch)
    seconds = {name: clock.stop() for name, clock in clocks.items()}
    ids = batch.answer_ids_T.repeat(len(states_KTD))
    alone: dict[str, Callable[[], Any]] = {
        "host_and_copies": lambda: vlm.batch(images_KHWC, QUERY, caption, False),
        "forward": lambda: vlm.states(batch),
        "head": lambda: picked_log_probs(states_KTD.flatten(0, 1), ids, vlm.lm_head, reward.options.chunk_tokens),
    }
    return seconds | {name: see(call, device).seconds for name, call in alone.items()}


class Clock:
    """Adds up the seconds of a module's calls until it is stopped."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self.device, self.seconds, self.started = device, 0.0, 0.0
        self.hooks = [
            module.register_forward_pre_hook(lambda *_: self._begin()),
            module.register_forward_hook(lambda *_: self._end()),
        ]

    def _begin(self) -> None:
        wait(self.device.type)
        self.started = time.perf_counter()

    def _end(self) -> None:
        wait(self.device.type)
        self.seconds += time.perf_counter() - self.started

    def stop(self) -> float:
        """The sum."""
        for hook in self.hooks:
            hook.remove()
        return self.seconds
