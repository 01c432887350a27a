"""One policy rank in plain torch: the trained LoRA, its optimiser, an update per step, export, save and load."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.diffusion import lora
from actors.diffusion.family import Conditions, LoadOptions, load_family, pick_device
from actors.messages import Adapter, Latents, UpdateGroup
from actors.policy.objectives.objective import AdapterName, Batch, Loss, load_objective


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


class Learner:
    """Trains the LoRA of one image model. The base weights never change."""

    def __init__(self, settings: LearnerSettings) -> None:
        policy = settings.policy
        options = LoadOptions(
            pick_device(policy["device"]),
            getattr(torch, policy["dtype"]),
            decoder=False,
            max_sequence_length=policy["max_sequence_length"],
        )
        self.settings = settings
        self.family = load_family(policy["model"], options)
        self.transformer = self.family.transformer
        self.targets = self.family.lora_targets[policy["lora_targets"]]
        lora.attach(self.transformer, policy["lora_rank"], policy["lora_alpha"], self.targets, settings.seed)
        self.trained = lora.tensors(self.transformer, lora.TRAINED)
        self.ema = lora.tensors(self.transformer, lora.EMA)
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()
        self.objective = load_objective(settings.objective)
        self.sigmas = self.family.sigmas(settings.num_steps, settings.height, settings.width)
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=policy["learning_rate"],
            betas=tuple(policy["betas"]),
            weight_decay=policy["weight_decay"],
        )
        self.step = 0

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions, adapter: AdapterName) -> Tensor:
        """The velocity under the adapter `trained` (with gradient), `ema`, or `none`: the reference."""
        if adapter == lora.TRAINED:
            return self.family.velocity(latents_BCHW, sigma_B, conditions)
        with torch.no_grad(), lora.active(self.transformer, adapter):
            return self.family.velocity(latents_BCHW, sigma_B, conditions)

    def update(self, step: int, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> dict[str, float]:
        """One optimiser step on all samples of `groups`; `chunks` are their latents in order. Returns figures for the log.

        The gradient is that of the mean over all samples, whatever the micro-batches. Without samples nothing changes but the
        step. Raises FloatingPointError if the loss or the gradient is not finite; the weights are then as they were.
        """
        start = time.perf_counter()
        samples = self._samples(groups, chunks)
        count = len(samples.sample_seeds)
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[tuple[Loss, float]] = []
        for first in range(0, count, self.settings.policy["micro_batch"]):
            part = _rows(samples, first, first + self.settings.policy["micro_batch"])
            loss = self.objective.loss(self, part)
            share = len(part.sample_seeds) / count
            (loss.total * share).backward()
            parts.append((Loss(loss.total.detach(), loss.terms, loss.ratio, loss.clipped), share))
        self.step = step
        share = learning_rate_share(
            step,
            self.settings.policy["warmup_steps"],
            self.settings.total_steps,
            self.settings.policy["final_learning_rate"],
        )
        figures = {"learning_rate": share * self.settings.policy["learning_rate"], "samples": float(count)}
        if parts:
            figures |= _summarise(parts)
            grad_norm = torch.nn.utils.clip_grad_norm_(
                self.trained.values(), self.settings.policy["max_grad_norm"]
            ).item()
            figures["grad_norm"] = grad_norm
            if not (torch.isfinite(torch.tensor([figures["loss"], grad_norm])).all()):
                raise FloatingPointError(
                    f"step {step}: loss {figures['loss']}, gradient norm {grad_norm}; the weights were left as they were"
                )
            for group in self.optimizer.param_groups:
                group["lr"] = figures["learning_rate"]
            self.optimizer.step()
            if self.objective.ema_used:
                lora.decay(self.ema, self.trained, self.objective.ema_decay(step))
        return figures | {"seconds": time.perf_counter() - start}

    def export(self, policy_version: int) -> Adapter:
        """The trained adapter as numpy."""
        return self.adapter(policy_version, lora.as_numpy(self.trained))

    def adapter(self, policy_version: int, tensors: dict[str, np.ndarray]) -> Adapter:
        """The message that carries these tensors, with their hash."""
        policy = self.settings.policy
        return Adapter(
            policy_version, policy["lora_rank"], policy["lora_alpha"], self.targets, lora.sha256_of(tensors), tensors
        )

    def state(self) -> dict[str, Any]:
        """Everything that training continues from: LoRA, moving average, optimiser, step."""
        return {
            "step": self.step,
            "trained": {name: tensor.detach() for name, tensor in self.trained.items()},
            "ema": {name: tensor.detach() for name, tensor in self.ema.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises ValueError if the state is of another adapter layout."""
        for name, mine in (("trained", self.trained), ("ema", self.ema)):
            if mine.keys() != state[name].keys():
                raise ValueError(
                    "the checkpoint's adapter touches other modules than this recipe's: policy.model and lora_targets must be the same"
                )
            for key, tensor in mine.items():
                tensor.copy_(state[name][key])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _samples(self, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> Batch:
        """All samples of a step as one batch on the policy's device. Numpy from the object store is read-only: it is copied."""
        device = self.family.device
        if not groups:
            return Batch(torch.empty(0), Conditions({}), torch.empty(0), (), self.sigmas)
        latents = torch.cat([torch.from_numpy(chunk.latents_KCHW.copy()) for chunk in chunks])
        behaviour = {
            name: torch.cat([torch.from_numpy(chunk.behaviour[name].copy()) for chunk in chunks])
            for name in chunks[0].behaviour
        }
        conditions = Conditions.concatenate(
            [self.family.conditions(group.caption).repeat(len(group.advantages_K)) for group in groups]
        )
        return Batch(
            latents_BCHW=latents.to(device),
            conditions=conditions,
            advantages_B=torch.tensor(
                [a for group in groups for a in group.advantages_K], dtype=torch.float64, device=device
            ),
            sample_seeds=tuple(seed for group in groups for seed in group.sample_seeds),
            sigmas=self.sigmas,
            behaviour={name: value.to(device) for name, value in behaviour.items()},
        )


def _rows(batch: Batch, first: int, last: int) -> Batch:
    return Batch(
        batch.latents_BCHW[first:last],
        Conditions({name: tensor[first:last] for name, tensor in batch.conditions.tensors.items()}),
        batch.advantages_B[first:last],
        batch.sample_seeds[first:last],
        batch.sigmas,
        {name: value[first:last] for name, value in batch.behaviour.items()},
    )


def _summarise(parts: list[tuple[Loss, float]]) -> dict[str, float]:
    """Means over samples of the loss and its terms, quantiles of all ratios, share of clipped ones."""
    ratios = torch.cat([loss.ratio.flatten() for loss, _ in parts]).double().cpu()
    quantiles = torch.quantile(ratios, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    figures = {"loss": sum(float(loss.total) * share for loss, share in parts)}
    for name in parts[0][0].terms:
        figures[name] = sum(float(loss.terms[name]) * share for loss, share in parts)
    figures |= dict(zip(("ratio_p05", "ratio_p50", "ratio_p95"), quantiles, strict=True))
    figures["clip_fraction"] = float(torch.cat([loss.clipped.flatten() for loss, _ in parts]).double().mean())
    return figures
