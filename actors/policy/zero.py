"""The engine that shares training among ranks: DeepSpeed's ZeRO, stages 1 to 3, over the trained LoRA and, in stage 3, the base.

The LoRA is float32 (actors/diffusion/lora.py), so its weights are their own masters, and DeepSpeed runs in its float32 mode
whatever the type of the frozen base. A checkpoint is not DeepSpeed's: `Engine.state` is whole, for any stage and number of ranks.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.diffusion import lora
from actors.policy.engine import MOMENTS, Engine, T
from actors.policy.meeting import Meeting
from actors.policy.options import LearnerOptions

SHARED_MEMORY = "deepspeed_shm_comm"  # an extension that inference uses, and that ranks on CPUs would else compile
PERSISTENT_NUMEL = 100_000  # in stage 3 a parameter smaller than this stays whole on every rank


class ZeroEngine(Engine):
    """One of several ranks, or the only one. Each holds its share of the moments (1), the gradient (2) and the weights (3)."""

    def __init__(self, transformer: nn.Module, policy: LearnerOptions, meeting: Meeting, address: str) -> None:
        super().__init__(transformer, policy)
        device = next(transformer.parameters()).device
        self.rank, self.ranks = meeting.rank, meeting.ranks
        with redirect_stdout(StringIO()):  # DeepSpeed prints that all is well
            self._deepspeed = _import_deepspeed(device)
            meeting.join(address, device)
            self._engine, *_ = self._deepspeed.initialize(
                model=transformer,
                optimizer=self.optimizer,
                config=_config(policy, device, sum(p.numel() for p in self.trained.values())),
                dist_init_required=False,
            )
        self.model = self._engine

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self.ranks)  # DeepSpeed takes the mean over ranks

    def step(self, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if not self._engine.was_step_applied():
            return math.nan
        self.updates += 1
        return float(self._engine.get_global_grad_norm())

    def discard(self) -> None:
        """DeepSpeed forgets a gradient when it refuses a step, and it refuses a step with a gradient that is not finite."""
        spoilt = next(iter(self.trained.values()))
        nan = torch.full(_shape(spoilt), math.nan, device=spoilt.device)
        self._deepspeed.utils.safe_set_full_grad(spoilt, nan)
        self._engine.step()

    def average(self, keep: float) -> None:
        with self._gathered(self.trained), self._gathered(self.ema, write=True):
            lora.decay(self.ema, self.trained, keep)

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def whole(self, kind: str) -> dict[str, Tensor]:
        if kind not in MOMENTS:
            parameters = self.trained if kind == "trained" else self.ema
            with self._gathered(parameters):
                return {name: parameter.detach().clone() for name, parameter in parameters.items()}
        if not self.updates:
            return {name: torch.zeros(_shape(parameter)) for name, parameter in self.trained.items()}
        read = self._deepspeed.utils.safe_get_full_optimizer_state
        return {name: read(parameter, kind) for name, parameter in self.trained.items()}

    @torch.no_grad()
    def put(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        utils = self._deepspeed.utils
        if kind in MOMENTS:
            self._create_moments()
            for name, value in tensors.items():
                utils.safe_set_full_optimizer_state(self.trained[name], value, kind)
            return
        parameters = self.trained if kind == "trained" else self.ema
        with self._gathered(parameters, write=True):
            for name, value in tensors.items():
                parameters[name].copy_(value)
        if kind == "trained":
            for name, value in tensors.items():
                utils.safe_set_full_fp32_param(self.trained[name], value)

    def _gathered(self, parameters: Mapping[str, nn.Parameter], write: bool = False) -> AbstractContextManager:
        """Within it the parameters are whole, as they always are before stage 3; what is written into them stays."""
        gather = self._deepspeed.zero.GatheredParameters
        return gather(list(parameters.values()), modifier_rank=0 if write else None)

    def _create_moments(self) -> None:
        """Makes AdamW's state of this rank's share, which else comes with the first step, and sets its step number."""
        zero = self._engine.optimizer
        stage3 = hasattr(zero, "fp32_partitioned_groups_flat")
        for share in zero.fp32_partitioned_groups_flat if stage3 else zero.single_partition_of_fp32_groups:
            state = self.optimizer.state[share]
            for kind in MOMENTS:
                state.setdefault(kind, torch.zeros_like(share))
            state["step"] = torch.tensor(float(self.updates))
        if not stage3:
            zero._lazy_init_hp_params_optimizer_state()


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed for this kind of device, quiet on stdout. It compiles nothing: ranks on CPUs communicate through gloo."""
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ["LOCAL_RANK"] = "0"  # a rank sees one GPU, or none, whatever a launcher of the driver said
    os.environ.pop("OMPI_COMM_WORLD_LOCAL_RANK", None)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of what DeepSpeed calls
    import deepspeed

    for handler in logging.getLogger("DeepSpeed").handlers:
        if type(handler) is logging.StreamHandler:  # its own, which writes to stdout; not what others hung there
            handler.setStream(sys.stderr)
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
    return deepspeed


def _config(policy: LearnerOptions, device: torch.device, trained_numel: int) -> dict[str, Any]:
    stage, gpu = policy.zero_stage, device.type == "cuda"
    return {
        "train_micro_batch_size_per_gpu": 1,  # asked for, and used only for figures that nobody reads
        "zero_allow_untested_optimizer": True,  # torch's AdamW
        "gradient_clipping": policy.max_grad_norm,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device before every forward
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": gpu and stage == 3,
            "reduce_bucket_size": trained_numel,  # a buffer of this size is held: by default 2 GB
            "stage3_param_persistence_threshold": PERSISTENT_NUMEL,
            # It replaces torch's linear in the whole process: worth it only where gathered weights fill a GPU's memory.
            "memory_efficient_linear": gpu,
        },
    }
