"""What a learner trains with: gradient, optimiser and moving average of the LoRA behind one interface, and its form in plain torch.

The other form shares the work among the ranks of a gang (actors/policy/zero.py). A method is called by every rank, in the same
order: what it returns is whole, and the same on all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from actors.diffusion import lora
from actors.policy.meeting import Meeting
from actors.policy.options import LearnerOptions

T = TypeVar("T")
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("trained", "ema", *MOMENTS)
UPDATES = "updates"


class Engine(ABC):
    """The trained LoRA of a transformer, its moving average and its AdamW.

    `model` is what a family calls in the transformer's place. `updates` counts the optimiser's steps.
    """

    model: nn.Module
    rank: int
    ranks: int

    def __init__(self, transformer: nn.Module, policy: LearnerOptions) -> None:
        self.transformer = transformer
        self.trained = lora.tensors(transformer, lora.TRAINED)
        self.ema = lora.tensors(transformer, lora.EMA)
        self.max_grad_norm: float = policy.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=policy.learning_rate,
            betas=policy.betas,
            weight_decay=policy.weight_decay,
        )
        self.updates = 0

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of a micro-batch; that of a step is the sum over micro-batches and ranks. `last`: of this rank's step."""

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Clips the gradient, updates the weights, forgets the gradient. Returns its norm before clipping.

        If the norm is not finite, weights and moments stay as they were.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forgets the gradient of a step whose last micro-batch is done."""

    @abstractmethod
    def average(self, keep: float) -> None:
        """ema <- keep * ema + (1 - keep) * trained."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """The value of each rank. For small things."""

    @abstractmethod
    def whole(self, kind: str) -> dict[str, Tensor]:
        """Float32 tensors by the name of their parameter: `trained`, `ema`, or a moment of AdamW, zero before the first step."""

    @abstractmethod
    def put(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `whole`."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that training continues from: float32 arrays by `<kind>/<name>`, and the number of updates. Only rank 0 has it."""
        arrays: dict[str, np.ndarray] = {} if self.rank else {UPDATES: np.array(self.updates)}
        for kind in KINDS:
            tensors = self.whole(kind)
            if not self.rank:
                arrays |= {f"{kind}/{name}": value for name, value in lora.as_numpy(tensors).items()}
        return arrays

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`, by an engine of any form and number of ranks. Raises ValueError if it is of another adapter layout."""
        if {f"{kind}/{name}" for kind in KINDS for name in self.trained} - state.keys():
            raise ValueError(
                "the checkpoint's adapter touches other modules than this recipe's: policy.model and lora_targets must be the same"
            )
        self.updates = int(state[UPDATES])
        for kind in KINDS:
            self.put(kind, {name: torch.from_numpy(state[f"{kind}/{name}"].copy()) for name in self.trained})


class TorchEngine(Engine):
    """One rank, plain torch."""

    rank, ranks = 0, 1

    def __init__(self, transformer: nn.Module, policy: LearnerOptions) -> None:
        super().__init__(transformer, policy)
        self.model = transformer

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        for parameter in self.trained.values():  # AdamW would leave out what took no part, and not decay it
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.max_grad_norm).item()
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.updates += 1
        self.discard()
        return norm

    def discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def average(self, keep: float) -> None:
        lora.decay(self.ema, self.trained, keep)

    def gather(self, value: T) -> list[T]:
        return [value]

    def whole(self, kind: str) -> dict[str, Tensor]:
        if kind in MOMENTS:
            state = self.optimizer.state
            return {name: state[p].get(kind, torch.zeros_like(p)) for name, p in self.trained.items()}
        return dict(self._weights(kind))

    @torch.no_grad()
    def put(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            if kind in MOMENTS:
                state = self.optimizer.state[self.trained[name]]
                state[kind] = value.to(self.trained[name].device)
                state["step"] = torch.tensor(float(self.updates))
            else:
                self._weights(kind)[name].copy_(value)

    def _weights(self, kind: str) -> dict[str, nn.Parameter]:
        return self.trained if kind == "trained" else self.ema


def start_engine(transformer: nn.Module, policy: LearnerOptions, meeting: Meeting, address: str) -> Engine:
    """The engine of policy.zero_stage. With stage 1 to 3 it waits for all ranks at the address.

    Raises ValueError for several ranks in stage 0.
    """
    if policy.zero_stage == 0:
        if meeting.ranks > 1:
            raise ValueError(f"policy.zero_stage = 0 is one rank of plain torch, not {meeting.ranks}: choose 1, 2 or 3")
        return TorchEngine(transformer, policy)
    from actors.policy.zero import ZeroEngine  # DeepSpeed takes a second to import

    return ZeroEngine(transformer, policy, meeting, address)
