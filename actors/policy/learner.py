"""One policy rank: a step's samples become micro-batches, their losses a gradient, and that an update of the LoRA."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.device import pick_device, pick_dtype
from actors.diffusion import lora
from actors.diffusion.family import Conditions, Family, LoadOptions, load_family
from actors.messages import Adapter, Latents, UpdateGroup
from actors.policy.engine import Engine
from actors.policy.objectives.objective import AdapterName, Batch, Loss, load_objective

STEP = "step"


@dataclass(frozen=True)
class LearnerSettings:
    """The recipe's [policy] table, the sampler's steps and size, the run's seed and number of steps."""

    policy: dict[str, Any]
    objective: dict[str, Any]
    num_steps: int
    height: int
    width: int
    seed: int
    total_steps: int


def learning_rate_share(step: int, warmup_steps: int, total_steps: int, final: float) -> float:
    """The share of the peak learning rate at a step (1-based): linear warm-up, then linear to `final` at the last step."""
    if step <= warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - (1 - final) * min(1.0, progress)


def load_model(settings: LearnerSettings) -> Family:
    """The image model with the LoRA attached, ready for an engine."""
    policy = settings.policy
    device = pick_device(policy["device"])
    options = LoadOptions(device, pick_dtype(policy["dtype"], device), False, policy["max_sequence_length"])
    family = load_family(policy["model"], options)
    targets = family.lora_targets[policy["lora_targets"]]
    lora.attach(family.transformer, policy["lora_rank"], policy["lora_alpha"], targets, settings.seed)
    if policy["activation_checkpointing"]:
        family.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    return family


class Learner:
    """Trains the LoRA of one image model, alone or as one of several ranks. The base weights never change.

    Every rank is called for every method, in the same order: inside, they wait for each other.
    """

    def __init__(self, settings: LearnerSettings, family: Family, engine: Engine) -> None:
        self.settings, self.family, self.engine = settings, family, engine
        family.transformer = engine.model
        self.targets = family.lora_targets[settings.policy["lora_targets"]]
        self.objective = load_objective(settings.objective)
        self.sigmas = family.sigmas(settings.num_steps, settings.height, settings.width)
        self.step = 0
        self._broken = False

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions, adapter: AdapterName) -> Tensor:
        """The velocity under the adapter `trained` (with gradient), `ema`, or `none`: the reference."""
        if adapter == lora.TRAINED:
            return self.family.velocity(latents_BCHW, sigma_B, conditions)
        with torch.no_grad(), lora.active(self.engine.transformer, adapter):
            return self.family.velocity(latents_BCHW, sigma_B, conditions)

    def update(self, step: int, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> dict[str, float]:
        """One optimiser step on the samples of all ranks; `groups` are this rank's, `chunks` their latents in order.

        Returns figures for the log, over all samples, the same on all ranks. The gradient is that of the mean over all samples,
        whatever the ranks and micro-batches. Without samples nothing changes but the step. Raises FloatingPointError on all ranks
        if the loss or the gradient is not finite; the weights are then as they were.
        """
        start = time.perf_counter()
        policy = self.settings.policy
        samples = self._samples(groups, chunks)
        shapes = self.engine.gather(tuple(samples.latents_BCHW.shape))
        share = learning_rate_share(
            step, policy["warmup_steps"], self.settings.total_steps, policy["final_learning_rate"]
        )
        figures = {"learning_rate": share * policy["learning_rate"], "samples": float(_count(shapes))}
        if _count(shapes):
            figures |= self._train(step, samples, shapes, figures["learning_rate"])
        self.step = step
        return figures | {"seconds": time.perf_counter() - start}

    def _train(
        self, step: int, samples: Batch, shapes: list[tuple[int, ...]], learning_rate: float
    ) -> dict[str, float]:
        if self._broken:
            raise RuntimeError(
                "an update broke off and left its gradient behind: start this rank anew and load a checkpoint"
            )
        self._broken = True
        parts = self._accumulate(samples, shapes)
        figures = _summarise([part for of_rank in self.engine.gather(parts) for part in of_rank])
        figures["grad_norm"] = math.nan
        if math.isfinite(figures["loss"]):
            figures["grad_norm"] = self.engine.step(learning_rate)
        else:
            self.engine.discard()
        self._broken = False
        if not math.isfinite(figures["grad_norm"]):
            raise FloatingPointError(
                f"step {step}: loss {figures['loss']}, gradient norm {figures['grad_norm']}; the weights were left as they were"
            )
        if self.objective.ema_used:
            self.engine.average(self.objective.ema_decay(step))
        return figures

    def _accumulate(self, samples: Batch, shapes: list[tuple[int, ...]]) -> list[_Part]:
        """The gradient of this rank's samples; `shapes` are those of every rank's latents.

        Ranks communicate in a backward, so all do as many: those with fewer samples add blanks of weight 0.
        """
        size, parts = self.settings.policy["micro_batch"], []
        count, *shape_CHW = max(shapes)
        rounds = math.ceil(count / size)
        for i in range(rounds):
            batch = _rows(samples, i * size, (i + 1) * size)
            share = len(batch.sample_seeds) / _count(shapes)
            loss = self.objective.loss(self, batch if share else self._blank(shape_CHW))
            self.engine.backward(loss.total * share, last=i == rounds - 1)
            if share:
                parts.append(_Part.of(loss, share))
        return parts

    def export(self, policy_version: int) -> Adapter:
        """The trained adapter as numpy."""
        return self.adapter(policy_version, lora.as_numpy(self.engine.whole(lora.TRAINED)))

    def adapter(self, policy_version: int, tensors: dict[str, np.ndarray]) -> Adapter:
        """The message that carries these tensors, with their hash."""
        policy = self.settings.policy
        return Adapter(
            policy_version, policy["lora_rank"], policy["lora_alpha"], self.targets, lora.sha256_of(tensors), tensors
        )

    def state(self) -> dict[str, np.ndarray]:
        """Everything that training continues from, whole on every rank."""
        return self.engine.state() | {STEP: np.array(self.step)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`, of any number of ranks. Raises ValueError if the state is of another adapter layout."""
        self.engine.restore(state)
        self.step = int(state[STEP])

    def _samples(self, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> Batch:
        """The samples of a step that are this rank's, as one batch. Numpy from the object store is read-only: it is copied."""
        device = self.family.device
        if not groups:
            return Batch(torch.empty(0), Conditions({}), torch.empty(0), (), self.sigmas)
        latents = torch.cat([torch.from_numpy(chunk.latents_KCHW.copy()) for chunk in chunks])
        behaviour = {
            name: torch.cat([torch.from_numpy(chunk.behaviour[name].copy()) for chunk in chunks])
            for name in chunks[0].behaviour
        }
        sample_seeds = tuple(seed for group in groups for seed in group.sample_seeds)
        if len(latents) != len(sample_seeds):
            raise ValueError(f"{len(latents)} latents came for {len(sample_seeds)} samples")
        conditions = Conditions.concatenate(
            [self.family.conditions(group.caption).repeat(len(group.advantages_K)) for group in groups]
        )
        return Batch(
            latents_BCHW=latents.to(device),
            conditions=conditions,
            advantages_B=torch.tensor(
                [a for group in groups for a in group.advantages_K], dtype=torch.float64, device=device
            ),
            sample_seeds=sample_seeds,
            sigmas=self.sigmas,
            behaviour={name: value.to(device) for name, value in behaviour.items()},
        )

    def _blank(self, shape_CHW: list[int]) -> Batch:
        """One made-up sample."""
        device = self.family.device
        advantage = torch.zeros(1, dtype=torch.float64, device=device)
        latents = torch.zeros((1, *shape_CHW), device=device)
        return Batch(latents, self.family.conditions(""), advantage, (0,), self.sigmas)


def _count(shapes: list[tuple[int, ...]]) -> int:
    return sum(shape[0] for shape in shapes)


def _rows(batch: Batch, first: int, last: int) -> Batch:
    return Batch(
        batch.latents_BCHW[first:last],
        Conditions({name: tensor[first:last] for name, tensor in batch.conditions.tensors.items()}),
        batch.advantages_B[first:last],
        batch.sample_seeds[first:last],
        batch.sigmas,
        {name: value[first:last] for name, value in batch.behaviour.items()},
    )


@dataclass(frozen=True)
class _Part:
    """What the log needs of a micro-batch. `share`: of the step's samples; ratio and clipped: flat, on the CPU."""

    share: float
    loss: float
    terms: dict[str, float]
    ratio: Tensor
    clipped: Tensor

    @classmethod
    def of(cls, loss: Loss, share: float) -> _Part:
        terms = {name: float(term) for name, term in loss.terms.items()}
        ratio, clipped = loss.ratio.flatten().double().cpu(), loss.clipped.flatten().cpu()
        return cls(share, float(loss.total.detach()), terms, ratio, clipped)


def _summarise(parts: list[_Part]) -> dict[str, float]:
    """Means over samples of the loss and its terms, quantiles of all ratios, share of clipped ones."""
    ratios = torch.cat([part.ratio for part in parts])
    quantiles = torch.quantile(ratios, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    figures = {"loss": sum(part.loss * part.share for part in parts)}
    for name in parts[0].terms:
        figures[name] = sum(part.terms[name] * part.share for part in parts)
    figures |= dict(zip(("ratio_p05", "ratio_p50", "ratio_p95"), quantiles, strict=True))
    figures["clip_fraction"] = float(torch.cat([part.clipped for part in parts]).double().mean())
    return figures
