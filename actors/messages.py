"""What travels between processes: frozen dataclasses of scalars, strings and contiguous numpy arrays, never torch.

Legend of axes, used in names everywhere: P prompts (groups) of a step, K images of a prompt (or of a chunk of its group),
B batch, C channels, H height, W width, T tokens of a caption, S sampling steps, N timesteps at which a loss is measured,
D width of a hidden state, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set; `extra` holds its other fields, which rewards and a held-out checker may read."""

    id: str
    caption: str
    category: str = "all"
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class DrawPart:
    """One chunk of a group that is to be drawn.

    `noise_seeds` gives the seed of each image's starting noise; `sample_seeds` that of everything else that is random about it: its
    noise on the way, and the (sigma, noise) pairs at which the learner trains it and the worker may measure the policy that drew.
    """

    group: int
    chunk: int
    caption: str
    noise_seeds: tuple[int, ...]
    sample_seeds: tuple[int, ...]


@dataclass(frozen=True)
class DrawRequest:
    """Draw these chunks as one batch, by one policy version: everything that decides the bytes of the result.

    Rounding depends on what else is in the batch: a chunk that is drawn again is drawn with the same others.
    """

    purpose: str
    step: int
    parts: tuple[DrawPart, ...]
    policy_version: int
    adapter_sha256: str
    num_steps: int
    guidance_scale: float
    height: int
    width: int
    keep_latents: bool = True


@dataclass(frozen=True)
class DrawTrial:
    """What a worker with an image model tries when it starts: an image of this size of this model, and schedules of so many steps.

    model: as the recipe names it at `key`.
    """

    model: str
    height: int
    width: int
    num_steps: tuple[int, ...]
    guidance_scale: float
    key: str = "policy.model"


@dataclass(frozen=True)
class DrawReport:
    """What a draw says of each of its chunks. `caption` is the string that was drawn: `cut` says if it is shorter than the prompt's.

    `adapter_sha256` is what the worker holds; `adapter_effect` how far it moves the model from its base; `adapter_share` how much
    of it rounding left in the weights (actors/rollout/probe.py). `load_seconds`, a part of `seconds`, went into loading it: next to
    nothing if the worker held it already; both are of the whole batch. `not_finite` names what came out as no number ("latents",
    "pictures", a figure of the policy that drew); then nothing of the chunk may be used.
    """

    caption: str
    cut: bool
    policy_version: int
    adapter_sha256: str
    num_bytes: int
    seconds: float
    adapter_effect: float = 0.0
    adapter_share: float = 1.0
    load_seconds: float = 0.0
    not_finite: str = ""


@dataclass(frozen=True)
class Latents:
    """The final latents of a chunk, float32, and what an objective kept of how they were drawn, each with a leading axis K."""

    latents_KCHW: np.ndarray
    behaviour: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Of all arrays."""
        return self.latents_KCHW.nbytes + sum(array.nbytes for array in self.behaviour.values())


@dataclass(frozen=True)
class Scores:
    """The rewards of K images of one caption, and further figures for the log by name, each of length K."""

    rewards_K: tuple[float, ...]
    metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What a reward says of one image: its score or, where it is None, the reason; and log p of each token, if that was asked for.

    `tries`: how often a server was asked in vain before, by reason.
    """

    reward: float | None
    reason: str = ""
    tokens: tuple[str, ...] = ()
    log_probs: tuple[float, ...] = ()
    tries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreTrial:
    """What a reward worker tries when it starts: an image of this size, and the checker on it for this held-out prompt."""

    height: int
    width: int
    prompt: Prompt | None = None


@dataclass(frozen=True)
class TokenLogProbs:
    """log p of each token of a caption given each of K images (natural logarithm, float32)."""

    tokens: tuple[str, ...]
    log_probs_KT: np.ndarray


@dataclass(frozen=True)
class Turn:
    """What one says in a chat. A part is a text, or the number of an image among those that go with the request."""

    role: str
    parts: tuple[str | int, ...]


@dataclass(frozen=True)
class WriteRequest:
    """A chat that asks for the assistant's next turn. `seed` is that of all that is random about its text."""

    turns: tuple[Turn, ...]
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """What a writer wrote: its text or, where it is None, the reason.

    `cut`: it was ended by the limit of tokens, not by the writer. `tokens`: how many were written (0 where nobody says). `tries`: how
    often a server failed before it answered, by reason.
    """

    text: str | None
    reason: str = ""
    cut: bool = False
    tokens: int = 0
    tries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Chance:
    """How likely an answer is; where it is None, the reason. `tries` as in `Written`."""

    probability: float | None
    reason: str = ""
    tries: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WriteTrial:
    """What a writer tries when it starts: so many images of this size, and this query."""

    height: int
    width: int
    images: int = 1
    query: str = "Describe this image in detail."


@dataclass(frozen=True)
class UpdateGroup:
    """A group's share in an update: its caption and, per image in the order of the latents passed, advantage and seed."""

    step: int
    group: int
    prompt_id: str
    caption: str
    policy_version: int
    advantages_K: tuple[float, ...]
    sample_seeds: tuple[int, ...]


@dataclass(frozen=True)
class KeptChunk:
    """What is kept beside the images of a chunk that `step` trained on, per image: its number in the group, seed, reward and advantage."""

    step: int
    policy_version: int
    group: int
    prompt_id: str
    category: str
    caption: str
    samples: tuple[int, ...]
    noise_seeds: tuple[int, ...]
    rewards_K: tuple[float, ...]
    advantages_K: tuple[float, ...]


@dataclass(frozen=True)
class Adapter:
    """LoRA weights in numpy, by name. `sha256` is that of the tensors (`sha256_of`)."""

    policy_version: int
    rank: int
    alpha: float
    targets: tuple[str, ...]
    sha256: str
    tensors: dict[str, np.ndarray]


def sha256_of(arrays: Mapping[str, np.ndarray]) -> str:
    """A hash of names, shapes, types and bytes, independent of the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode() + array.tobytes())
    return digest.hexdigest()
