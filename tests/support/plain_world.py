"""A world without models: three actors in plain numpy that speak the real messages, with real bytes, digests and checkpoints.

For tests of the driver, the cluster and storage: nothing here loads torch, so that a worker starts at a tenth of the price. What is
drawn is a function of seeds, caption and the adapter's bytes; a score of pixels and caption; an update of every sample that it is
given, in order, and of the state before. So whatever is lost, doubled, drawn by another adapter or read wrongly changes the digest.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from actors.messages import (
    Adapter,
    DrawPart,
    DrawReport,
    DrawRequest,
    Latents,
    Prompt,
    Scores,
    TokenLogProbs,
    UpdateGroup,
    Verdict,
    sha256_of,
)
from actors.mistake import Mistake
from actors.policy.options import LearnerSettings
from actors.reward.checker import find_checker
from actors.seeds import seed_of, stream_of
from tests.support.shapes import green_prompts, write_shapes

STATE, ADAPTER = "policy.safetensors", "adapter/pytorch_lora_weights.safetensors"
DOWN, UP = "transformer.easel.lora_A.weight", "transformer.easel.lora_B.weight"
MOMENTS = ("mean", "square")
BETAS, EPSILON = (0.9, 0.99), 1e-8
KEEP = 0.9  # of the gradient so far, from one sample to the next: so that their order counts
CHANNELS, DOWNSCALE = 4, 8
FEATURES = 16
DEAF, BLIND = "deaf-to-", "blind-to-"
BROKEN = "plain/broken"

THREE_JUDGES = """
[[reward]]
name = "a"
model = "plain/taste-a"
num_cpus = 0.2

[[reward]]
name = "b"
model = "plain/taste-b"
weight = 2.0
num_cpus = 0.2

[[reward]]
name = "c"
model = "plain/taste-c"
weight = 0.5
num_cpus = 0.2

"""

Tensors = dict[str, np.ndarray]


def make_plain_world(folder: Path) -> Path:
    """What a whole run is asked for, in a folder; returns the recipe's path. Its models are names alone."""
    return write_shapes(folder, image="plain/image", judge="plain/judge", learning_rate=1e-2)


def make_world_of_three_judges(folder: Path) -> Path:
    """The plain world with three rewards in the place of one, named a, b and c."""
    path = make_plain_world(folder)
    before, _, rest = path.read_text().partition("[reward]\n")
    path.write_text(f"{before}{THREE_JUDGES}[policy]{rest.partition('[policy]')[2]}")
    return path


def unscorable(folder: Path) -> dict[str, object]:
    """Settings of a run that can score no training prompt, though its judge begins well; its prompts come into `folder`."""
    return {"reward__model": f"plain/{BLIND}green", "data__train": green_prompts(folder)}


@dataclass
class PlainRollout:
    """Draws with whatever adapter a request names. `pause_s`: what a sampling step takes at least, so that a draw can be caught."""

    pause_s: float = 0.0

    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple:
        """As `RolloutActor.draw`. Raises ValueError for another adapter than the request names, by its bytes."""
        start = time.perf_counter()
        time.sleep(self.pause_s * request.num_steps)
        for named in (adapter.sha256, sha256_of(adapter.tensors)):
            if named != request.adapter_sha256:
                raise ValueError(f"got adapter {named[:12]}, but the request names {request.adapter_sha256[:12]}")
        reports, payloads = [], []
        for part in request.parts:
            latents_KCHW = draw_latents(request, part, adapter)
            images, kept = decode(latents_KCHW), Latents(latents_KCHW) if request.keep_latents else None
            reports.append(
                DrawReport(
                    caption=part.caption,
                    cut=False,
                    policy_version=request.policy_version,
                    adapter_sha256=adapter.sha256,
                    num_bytes=images.nbytes + (kept.num_bytes if kept else 0),
                    seconds=time.perf_counter() - start,
                )
            )
            payloads += [images, kept]
        return tuple(reports), *payloads

    def info(self) -> dict[str, Any]:
        """As `RolloutActor.info`."""
        return where()


@dataclass
class PlainReward:
    """Scores images. A judge that is named "plain/deaf-to-green" raises for captions with the word, "plain/blind-to-green" gives NaN.

    One that is named "plain/broken" is a user's mistake that only the worker can see.
    """

    model: str
    checker: str | None = None
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if self.model == BROKEN:
            raise Mistake(f"{BROKEN} cannot be used")

    def score(self, prompt: Prompt, images_KHWC: np.ndarray) -> Scores:
        """As `RewardActor.score`: how near each image's mean colour is to the one that the caption stands for."""
        start = time.perf_counter()
        time.sleep(self.pause_s)
        name, words = self.model.rpartition("/")[2], prompt.caption.split()
        if name.startswith(DEAF) and name.removeprefix(DEAF) in words:
            raise ValueError(f"{self.model} knows no {name.removeprefix(DEAF)}")
        wanted = _vector("colour", *self.taste, prompt.caption, length=3)
        off_K = ((images_KHWC.mean(axis=(1, 2)) / 128 - 1 - wanted) ** 2).mean(axis=-1)
        if name.startswith(BLIND) and name.removeprefix(BLIND) in words:
            off_K = np.full(len(images_KHWC), np.nan)
        return Scores(tuple(float(-off) for off in off_K), seconds=time.perf_counter() - start)

    @property
    def taste(self) -> tuple[str, ...]:
        """What sets a judge that is named "plain/taste-..." apart from others."""
        return (self.model,) if self.model.startswith("plain/taste-") else ()

    def check(self, prompt: Prompt, images_KHWC: np.ndarray) -> dict[str, list[float]]:
        """As `RewardActor.check`."""
        if self.checker is None:
            return {}
        fields = {**prompt.extra, "id": prompt.id, "caption": prompt.caption, "category": prompt.category}
        return find_checker(self.checker)(images_KHWC, fields)

    def evaluate(self, prompt: Prompt, images_KHWC: np.ndarray) -> tuple[Scores, dict[str, list[float]]]:
        """As `RewardActor.evaluate`."""
        return self.score(prompt, images_KHWC), self.check(prompt, images_KHWC)

    def explain(self, prompt: Prompt, images_KHWC: np.ndarray) -> TokenLogProbs:
        """As `RewardActor.explain`: each word has an equal share of the score."""
        words = tuple(prompt.caption.split())
        rewards_K = np.array(self.score(prompt, images_KHWC).rewards_K, np.float32)
        return TokenLogProbs(words, np.repeat(rewards_K[:, None] / len(words), len(words), axis=1))

    def judge(self, prompt: Prompt, image_KHWC: np.ndarray, tokens: bool) -> Verdict:
        """As `RewardActor.judge`."""
        try:
            (reward,) = self.score(prompt, image_KHWC).rewards_K
        except ValueError as error:
            return Verdict(None, str(error))
        said = self.explain(prompt, image_KHWC)
        return Verdict(reward, "", said.tokens, tuple(said.log_probs_KT[0].tolist())) if tokens else Verdict(reward)

    def judge_each(self, asked: Sequence[tuple[Prompt, int]], tokens: bool, *read: tuple) -> tuple[Verdict, ...]:
        """As `RewardActor.judge_each`."""
        images = [image_HWC for batch in read for image_HWC in batch]
        return tuple(self.judge(prompt, images[number][None], tokens) for prompt, number in asked)

    def info(self) -> dict[str, Any]:
        """As `RewardActor.info`."""
        return {**where(), "model": self.model}


class PlainPolicy:
    """Trains two small matrices by Adam, as a gang of one rank. `settings`: those of `PolicyActor`."""

    def __init__(self, rank: int, ranks: int, settings: LearnerSettings, pause_s: float = 0.0) -> None:
        if ranks > 1:
            raise Mistake(f"the plain policy is one rank, not {ranks}")
        self.policy, self.pause_s = settings.policy, pause_s
        size, noise = self.policy.lora_rank, stream_of(seed_of(settings.seed, "plain policy"))
        self.weights = {
            DOWN: noise.standard_normal((size, FEATURES), np.float32),
            UP: np.zeros((FEATURES, size), np.float32),
        }
        self.moments = {
            f"{kind}/{name}": np.zeros_like(self.weights[name]) for kind in MOMENTS for name in self.weights
        }
        self.step = 0

    def address(self) -> str:
        """As `PolicyActor.address`: there is no other rank to meet."""
        return ""

    def join(self, address: str) -> None:
        """As `PolicyActor.join`."""

    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        """As `PolicyActor.update`: each sample pulls at the weights by its advantage, in the order in which they are given."""
        start = time.perf_counter()
        time.sleep(self.pause_s)
        figures = {"learning_rate": self.policy.learning_rate}
        figures["samples"] = float(sum(len(group.sample_seeds) for group in groups))
        if groups:
            figures |= self._train(step, groups, chunks)
        self.step = step
        return figures | {"seconds": time.perf_counter() - start}

    def export(self, policy_version: int) -> tuple[dict[str, Any], Adapter]:
        """As `PolicyActor.export`."""
        start = time.perf_counter()
        adapter = self._adapter(policy_version, self.weights)
        return {"sha256": adapter.sha256, "seconds": time.perf_counter() - start}, adapter

    def snapshot(self, *adapters: Adapter) -> tuple[dict[str, Any], Tensors]:
        """As `PolicyActor.snapshot`, with files of the same names."""
        start = time.perf_counter()
        time.sleep(self.pause_s)
        contents = {
            STATE: serialise({**self.weights, **self.moments, "step": np.array(self.step)}),
            ADAPTER: serialise(self.weights),
            **{version_file(adapter.policy_version): serialise(adapter.tensors) for adapter in adapters},
        }
        files = {name: np.frombuffer(content, np.uint8) for name, content in contents.items()}
        num_bytes = sum(content.nbytes for content in files.values())
        return {"bytes": num_bytes, "seconds": time.perf_counter() - start}, files

    def load(self, files: Tensors) -> int:
        """As `PolicyActor.load`."""
        state = parse(files[STATE].tobytes())
        self.weights = {name: state[name] for name in self.weights}
        self.moments = {name: state[name] for name in self.moments}
        self.step = int(state["step"])
        return self.step

    def load_adapter(self, files: Tensors, policy_version: int) -> tuple[dict[str, Any], Adapter]:
        """As `PolicyActor.load_adapter`."""
        adapter = self._adapter(policy_version, parse(files[version_file(policy_version)].tobytes()))
        return {"sha256": adapter.sha256}, adapter

    def info(self) -> dict[str, Any]:
        """As `PolicyActor.info`."""
        return {"rank": 0, **where()}

    def _train(self, step: int, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> dict[str, float]:
        gradient = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        loss = 0.0
        for group, chunk in zip(groups, chunks, strict=True):
            wanted = _vector("caption", group.caption)
            samples = zip(group.advantages_K, group.sample_seeds, chunk.latents_KCHW, strict=True)
            for advantage, seed, latents_CHW in samples:
                seen = _features(latents_CHW) + _vector("point", str(seed))
                loss -= advantage * float((seen * wanted).mean())
                pull = np.float32(advantage) * seen[:, None] * wanted[None, :]  # on up x down
                of_up = (pull[:, None, :] * self.weights[DOWN][None, :, :]).sum(axis=2)
                of_down = (pull[:, None, :] * self.weights[UP][:, :, None]).sum(axis=0)
                for name, by_sample in ((UP, of_up), (DOWN, of_down)):
                    gradient[name] = KEEP * gradient[name] - by_sample
        for name, grad in gradient.items():
            self._step(step, name, grad.astype(np.float32))
        norm = float(np.sqrt(sum(float((grad**2).sum()) for grad in gradient.values())))
        return {"loss": loss, "grad_norm": norm}

    def _step(self, step: int, name: str, grad: np.ndarray) -> None:
        """Adam's, of one matrix."""
        for kind, beta, value in zip(MOMENTS, BETAS, (grad, grad**2), strict=True):
            key = f"{kind}/{name}"
            self.moments[key] = (beta * self.moments[key] + (1 - beta) * value).astype(np.float32)
        mean, square = (
            self.moments[f"{kind}/{name}"] / (1 - beta**step) for kind, beta in zip(MOMENTS, BETAS, strict=True)
        )
        change = self.policy.learning_rate * mean / (np.sqrt(square) + EPSILON)
        self.weights[name] = (self.weights[name] - change).astype(np.float32)

    def _adapter(self, policy_version: int, tensors: Tensors) -> Adapter:
        size, alpha = self.policy.lora_rank, self.policy.lora_alpha
        return Adapter(policy_version, size, alpha, ("easel",), sha256_of(tensors), dict(tensors))


def draw_latents(request: DrawRequest, part: DrawPart, adapter: Adapter) -> np.ndarray:
    """Noise of each seed, moved by what the adapter makes of the caption: float32 [K, C, H, W]."""
    shape = (CHANNELS, request.height // DOWNSCALE, request.width // DOWNSCALE)
    noise_KCHW = np.stack([stream_of(seed).standard_normal(shape, np.float32) for seed in part.noise_seeds])
    up, down = adapter.tensors[UP], adapter.tensors[DOWN]
    inner = (down * _vector("caption", part.caption)).sum(axis=1)
    moved = (up * inner).sum(axis=1) * np.float32(adapter.alpha / adapter.rank * request.guidance_scale)
    return noise_KCHW + np.resize(moved, shape[1] * shape[2]).reshape(shape[1:])


def decode(latents_KCHW: np.ndarray) -> np.ndarray:
    """The first three channels as pixels: uint8 [K, H, W, 3]."""
    pixels = np.clip(latents_KCHW[:, :3] * 64 + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.repeat(DOWNSCALE, axis=1).repeat(DOWNSCALE, axis=2))


def version_file(policy_version: int) -> str:
    """As actors/policy/checkpoint.py, which loads torch, has it."""
    return f"versions/{policy_version:06d}.safetensors"


def where() -> dict[str, Any]:
    """What every worker says of itself."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "device": "cpu", "dtype": "float32"}


def _vector(*what: str, length: int = FEATURES) -> np.ndarray:
    """What a text stands for, float32."""
    return stream_of(seed_of(*what)).standard_normal(length, np.float32)


def _features(latents_CHW: np.ndarray) -> np.ndarray:
    """All latents, folded to the length of a vector."""
    flat = latents_CHW.ravel()
    return np.resize(flat, (-(-flat.size // FEATURES), FEATURES)).mean(axis=0)
