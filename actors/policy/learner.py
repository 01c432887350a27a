"""One policy rank: a step's samples become micro-batches, their losses a gradient, and that an update of the LoRA."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actors.device import all_to_host, to_device
from actors.diffusion import lora
from actors.diffusion.adapter_file import find_adapter
from actors.diffusion.families.conditions import Conditions, Prompted
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.foreign_lora import start_from
from actors.messages import Adapter, Latents, UpdateGroup, sha256_of
from actors.mistake import Mistake
from actors.policy.engine import Engine
from actors.policy.loss_scale import LossScale
from actors.policy.objectives.objective import AdapterName, Batch, Loss, load_objective
from actors.policy.options import LearnerSettings

STEP = "step"
LATENTS = "latents"
LOSS, RATIO, CLIPPED = "loss", "ratio", "clipped"
Shapes = dict[str, tuple[int, tuple[int, ...], str]]


def learning_rate_share(step: int, warmup_steps: int, total_steps: int, final: float) -> float:
    """The share of the peak learning rate at a step (1-based): linear warm-up, then linear to `final` at the last step.

    A run that is no longer than its warm-up ends within it, on its way to the peak.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - (1 - final) * min(1.0, progress)


def load_model(settings: LearnerSettings) -> Family:
    """The image model with the LoRA attached, ready for an engine. Raises Mistake if the LoRA to begin from does not fit."""
    policy = settings.policy
    options = LoadOptions.of(policy, policy.max_sequence_length, decoder=False)
    family = load_family(policy.model, options, policy.family)
    targets = family.lora_targets[policy.lora_targets]
    lora.attach(family.transformer, policy.lora_rank, policy.lora_alpha, targets, settings.seed)
    if settings.init_adapter:
        file, sha256 = settings.init_adapter
        if find_adapter(file).sha256 != sha256:
            raise Mistake(f"policy.init_adapter: {file} is another file on this node than where the run was started")
        start_from(family, Path(file), policy.lora_rank, policy.lora_alpha, policy.lora_targets)
    if policy.activation_checkpointing:
        family.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    return family


class Learner:
    """Trains the LoRA of one image model, alone or as one of several ranks. The base weights never change.

    Every rank is called for every method, in the same order: inside, they wait for each other.
    """

    def __init__(self, settings: LearnerSettings, family: Family, engine: Engine) -> None:
        self.settings, self.family, self.engine = settings, family, engine
        family.transformer = engine.model
        self.switch = lora.Switch(engine.transformer)
        self.targets = family.lora_targets[settings.policy.lora_targets]
        self.objective = load_objective(settings.objective)
        self.sigmas = family.sigmas(settings.num_steps, settings.height, settings.width)
        self.loss_scale = LossScale(engine.trained.values(), family.dtype)
        self.step = 0
        self._broken = False

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions, adapter: AdapterName) -> Tensor:
        """The velocity under the adapter `trained` (with gradient), `ema`, or `none`: the reference."""
        with self._under(adapter):
            return self.family.velocity(latents_BCHW, sigma_B, conditions)

    def guided_velocity(
        self, latents_BCHW: Tensor, sigma_B: Tensor, prompted: Prompted, adapter: AdapterName
    ) -> Tensor:
        """The velocity that images are drawn with, under an adapter."""
        with self._under(adapter):
            return self.family.guided_velocity(latents_BCHW, sigma_B, prompted)

    def update(self, step: int, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> dict[str, float]:
        """One optimiser step on the samples of all ranks; `groups` are this rank's, `chunks` their latents in order.

        Returns figures for the log, over all samples, the same on all ranks. The gradient is that of the mean over all samples,
        whatever the ranks and micro-batches. Without samples nothing changes but the step. Raises FloatingPointError on all ranks
        if the loss or the gradient is not finite; the weights are then as they were.
        """
        start = time.perf_counter()
        policy = self.settings.policy
        samples = self.batch_of(groups, chunks)
        shapes = self.engine.gather(shapes_of(samples))
        share = learning_rate_share(step, policy.warmup_steps, self.settings.total_steps, policy.final_learning_rate)
        figures = {"learning_rate": share * policy.learning_rate, "samples": float(_count(shapes))}
        if _count(shapes):
            figures |= self._train(step, samples, shapes, figures["learning_rate"])
        self.step = step
        return figures | {"seconds": time.perf_counter() - start}

    def _train(self, step: int, samples: Batch, shapes: list[Shapes], learning_rate: float) -> dict[str, float]:
        if self._broken:
            raise RuntimeError(
                "an update broke off and left its gradient behind: start this rank again and load a checkpoint"
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
                f"step {step}: loss {figures['loss']}, gradient norm {figures['grad_norm']}; the weights were left as they were. Lower "
                "policy.learning_rate, or use a wider policy.dtype, and go on with --resume"
            )
        if self.objective.ema_used:
            self.engine.average(self.objective.ema_decay(step))
        return figures

    def _accumulate(self, samples: Batch, shapes: list[Shapes]) -> list[_Part]:
        """The gradient of this rank's samples; `shapes` are those of every rank's samples.

        Ranks communicate in a backward, so all do as many: those with fewer samples add blanks of weight 0.
        """
        size, parts = self.settings.policy.micro_batch, []
        largest = max(shapes, key=lambda of_rank: of_rank[LATENTS][0])
        rounds = math.ceil(largest[LATENTS][0] / size)
        scale = self.loss_scale.of(_count(shapes) * math.prod(largest[LATENTS][1]))
        for i in range(rounds):
            batch = samples.rows(i * size, (i + 1) * size) if i * size < len(samples.sample_seeds) else None
            share = len(batch.sample_seeds) / _count(shapes) if batch else 0.0
            loss = self.objective.loss(self, batch or self.blank(largest))
            self.engine.backward(loss.total * share * scale, last=i == rounds - 1)
            if share:
                parts.append(_Part.of(loss, share))
        return _on_host(parts)

    def export(self, policy_version: int) -> Adapter | None:
        """The adapter that draws, as numpy; None but on rank 0. Raises FloatingPointError as `adapter`."""
        tensors = self.engine.whole(self.objective.drawn_by)
        return None if self.engine.rank else self.adapter(policy_version, lora.as_numpy(tensors))

    def adapter(self, policy_version: int, tensors: dict[str, np.ndarray]) -> Adapter:
        """The message that carries these tensors, with their hash. Raises FloatingPointError if they are not finite."""
        policy = self.settings.policy
        if bad := next((name for name, tensor in tensors.items() if not np.isfinite(tensor).all()), None):
            raise FloatingPointError(
                f"version {policy_version}: {bad} of the adapter is not finite, so nothing can be drawn with it. Lower "
                "policy.learning_rate, and go on with --resume"
            )
        return Adapter(policy_version, policy.lora_rank, policy.lora_alpha, self.targets, sha256_of(tensors), tensors)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that training continues from, whole on rank 0; nothing on the others."""
        state = self.engine.state()
        return state and state | {STEP: np.array(self.step)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`, of any number of ranks. Raises ValueError if the state is of another adapter layout."""
        self.engine.restore(state)
        self.step = int(state[STEP])

    def batch_of(self, groups: tuple[UpdateGroup, ...], chunks: tuple[Latents, ...]) -> Batch:
        """The samples of a step that are this rank's, as one batch. Numpy from the object store is read-only: it is copied."""
        family, guidance_scale = self.family, self.settings.guidance_scale
        if not groups:
            return Batch(torch.empty(0), Prompted(Conditions({})), torch.empty(0), (), self.sigmas)
        arrays = {LATENTS: np.concatenate([chunk.latents_KCHW for chunk in chunks])}
        for name in chunks[0].behaviour:
            arrays[name] = np.concatenate([chunk.behaviour[name] for chunk in chunks])
        tensors = {name: to_device(array, family.device) for name, array in arrays.items()}
        sample_seeds = tuple(seed for group in groups for seed in group.sample_seeds)
        if len(arrays[LATENTS]) != len(sample_seeds):
            raise ValueError(f"{len(arrays[LATENTS])} latents came for {len(sample_seeds)} samples")
        family.prepare([group.caption for group in groups], guidance_scale)
        prompted = [family.prompted(group.caption, guidance_scale).repeat(len(group.advantages_K)) for group in groups]
        advantages = torch.tensor([a for group in groups for a in group.advantages_K], dtype=torch.float64)
        return Batch(
            latents_BCHW=tensors.pop(LATENTS),
            prompted=family.together(prompted),
            advantages_B=to_device(advantages, family.device),
            sample_seeds=sample_seeds,
            sigmas=self.sigmas,
            behaviour=tensors,
        )

    def blank(self, shapes: Shapes) -> Batch:
        """One made-up sample with the shapes of a real one."""
        device = self.family.device
        tensors = {
            name: torch.zeros((1, *shape), dtype=getattr(torch, dtype), device=device)
            for name, (_, shape, dtype) in shapes.items()
        }
        advantage = torch.zeros(1, dtype=torch.float64, device=device)
        prompted = self.family.prompted("", self.settings.guidance_scale)
        return Batch(tensors.pop(LATENTS), prompted, advantage, (0,), self.sigmas, tensors)

    def _under(self, adapter: AdapterName) -> AbstractContextManager[None]:
        return nullcontext() if adapter == lora.TRAINED else self.switch.to(adapter)


def shapes_of(samples: Batch) -> Shapes:
    """(how many, shape of one, type) of the latents and of each figure of the policy that drew."""
    tensors = {LATENTS: samples.latents_BCHW, **samples.behaviour}
    return {
        name: (len(tensor), tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


def _count(shapes: list[Shapes]) -> int:
    return sum(of_rank[LATENTS][0] for of_rank in shapes)


@dataclass(frozen=True)
class _Part:
    """What the log needs of a micro-batch. `share`: of the step's samples; figures: flat, float64; one of the loss and of each term."""

    share: float
    figures: dict[str, Tensor]

    @classmethod
    def of(cls, loss: Loss, share: float) -> _Part:
        figures = {LOSS: loss.total, **loss.terms, RATIO: loss.ratio, CLIPPED: loss.clipped}
        return cls(share, {name: figure.detach().flatten().double() for name, figure in figures.items()})


def _on_host(parts: list[_Part]) -> list[_Part]:
    """The parts on the CPU: what all micro-batches left on the device is read at once, with one wait."""
    hosts = all_to_host({(i, name): figure for i, part in enumerate(parts) for name, figure in part.figures.items()})
    return [_Part(part.share, {name: hosts[i, name] for name in part.figures}) for i, part in enumerate(parts)]


def _summarise(parts: list[_Part]) -> dict[str, float]:
    """Means over samples of the loss and its terms; where there are ratios, their quantiles and the share of clipped ones."""
    means = [name for name in parts[0].figures if name not in (RATIO, CLIPPED)]
    figures = {name: sum(part.figures[name].item() * part.share for part in parts) for name in means}
    ratios = torch.cat([part.figures[RATIO] for part in parts])
    if len(ratios) == 0:
        return figures
    quantiles = torch.quantile(ratios, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    figures |= dict(zip(("ratio_p05", "ratio_p50", "ratio_p95"), quantiles, strict=True))
    figures["clip_fraction"] = torch.cat([part.figures[CLIPPED] for part in parts]).mean().item()
    return figures
