"""LoRA adapters: attached by peft for training, carried as numpy, merged into the weights for drawing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from actors.device import all_to_host, room_on, to_device
from actors.diffusion.sample import noise_of
from actors.messages import Adapter, sha256_of
from actors.seeds import seed_of

TRAINED = "trained"
EMA = "ema"
A, B = ".lora_A.weight", ".lora_B.weight"


class MasterLinear(nn.Linear):
    """A linear layer without bias whose float32 weight is used in the type of its input; its gradient is float32 again."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype))


def attach(transformer: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> None:
    """Adds the trained adapter and its moving average to a diffusers transformer, the average equal to the trained at first.

    A is Gaussian with standard deviation 1 / rank, each matrix from its own seed; B is zero, so the model is unchanged.
    Both are float32 whatever the type of the model, and compute in the type of what flows through it.
    """
    for name in (TRAINED, EMA):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Already found a `peft_config` attribute"
            )  # two adapters are meant
            transformer.add_adapter(config, adapter_name=name)  # type: ignore[operator]
    for layer in transformer.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
            for linear in (*layer.lora_A.values(), *layer.lora_B.values()):
                linear.__class__ = MasterLinear
                linear.weight.data = linear.weight.data.float()
    with torch.no_grad():
        for name, parameter in tensors(transformer, TRAINED).items():
            if name.endswith(A):
                parameter.copy_(noise_of(seed_of(seed, "lora", name), tuple(parameter.shape)) / rank)
        for name, parameter in tensors(transformer, EMA).items():
            parameter.copy_(tensors(transformer, TRAINED)[name])
    train(transformer)


def tensors(transformer: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters by the name that travels: `<module>.lora_A.weight` and `<module>.lora_B.weight`, in the model's order."""
    mark = f".{adapter}.weight"
    return {
        name.replace(mark, ".weight"): parameter
        for name, parameter in transformer.named_parameters()
        if ".lora_" in name and name.endswith(mark)
    }


def config_of(transformer: nn.Module) -> dict:
    """Peft's description of the trained adapter, which goes into the file beside the weights."""
    return transformer.peft_config[TRAINED].to_dict()  # type: ignore[union-attr, index]


class Switch:
    """Chooses what a transformer with LoRA attached computes with, where no gradient is wanted.

    Peft's own switch walks through all modules and turns requires_grad on and off; this one knows the layers, and leaves that alone.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.layers = [module for module in transformer.modules() if isinstance(module, LoraLayer)]

    @contextmanager
    def to(self, adapter: str) -> Iterator[None]:
        """Within it there is no gradient, and `ema` is in use, or no adapter for `none`; afterwards the trained one again."""
        self._use(adapter)
        try:
            with torch.no_grad():
                yield
        finally:
            self._use(TRAINED)

    def _use(self, adapter: str) -> None:
        for layer in self.layers:
            layer._disable_adapters = adapter == "none"
            if adapter != "none":
                layer._active_adapter = [adapter]


def train(transformer: nn.Module) -> None:
    """Makes the trained adapter the active one and the only thing with a gradient."""
    transformer.set_adapter(TRAINED)  # type: ignore[operator]
    for parameter in tensors(transformer, EMA).values():
        parameter.requires_grad_(False)


@torch.no_grad()
def decay(average: Mapping[str, Tensor], trained: Mapping[str, Tensor], keep: float) -> None:
    """average <- keep * average + (1 - keep) * trained, in place."""
    for name, tensor in average.items():
        tensor.lerp_(trained[name].to(tensor.dtype), 1 - keep)


def as_numpy(parameters: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Float32 copies on the CPU."""
    hosts = all_to_host({name: tensor.detach().float() for name, tensor in parameters.items()})
    return {name: host.numpy().copy() for name, host in hosts.items()}


class Merger:
    """Writes adapters into a transformer's weights, each from the base weights, so that nothing accumulates.

    W = W_0 + (alpha / rank) B A, summed in float32 and rounded once to the weights' type. The base weights of the
    touched modules are kept where the weights are if `room_on` says that there is room, else in pinned memory of the
    host: in their own type, and sent without waiting. `share` is how much of the adapter then stands in the weights,
    <W - W_0, D> / <D, D> over all modules with D = (alpha / rank) B A: 1 but for rounding, which swallows a D far below
    half a step of W_0's type; 1.0 for an adapter of zeros. `size` is |D| / |W_0| over all modules.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.weights = {
            name.removesuffix(".weight"): p for name, p in transformer.named_parameters() if name.endswith(".weight")
        }
        self.device = next(transformer.parameters()).device
        self.base: dict[str, Tensor] = {}
        self.sha256 = ""
        self.share, self.size = 1.0, 0.0

    @torch.no_grad()
    def load(self, adapter: Adapter) -> None:
        """Makes the transformer the base plus this adapter. Raises ValueError if it is altered or was made for another model."""
        if self.sha256 == adapter.sha256:
            return
        if sha256_of(adapter.tensors) != adapter.sha256:
            raise ValueError(
                f"adapter {adapter.policy_version}: its weights do not have the hash {adapter.sha256[:12]} that came with them"
            )
        modules = [name.removesuffix(A) for name in adapter.tensors if name.endswith(A)]
        unknown = [name for name in modules if name not in self.weights]
        if unknown or not modules:
            raise ValueError(
                f"adapter {adapter.policy_version} binds to {len(modules) - len(unknown)} of its {len(modules)} modules in this model"
                + (f"; unknown: {', '.join(unknown[:3])}" if unknown else "")
                + ": it was made for another model"
            )
        self.sha256 = ""  # should a write fail, the weights are no adapter's
        for name in self.base.keys() - set(modules):
            self.weights[name].copy_(self.base.pop(name), non_blocking=True)
        self._keep_base({name: self.weights[name].detach() for name in modules if name not in self.base})
        sums = torch.zeros(3, device=self.device)  # of D D, of (W - W_0) D and of W_0 W_0
        for name in modules:
            weight = self.weights[name]
            base = self.base[name].to(self.device, non_blocking=True).float()
            down, up = (to_device(adapter.tensors[name + end].copy(), self.device) for end in (A, B))
            delta = (adapter.alpha / adapter.rank) * (up @ down)
            weight.copy_(base + delta)
            stands = weight.float() - base
            sums += torch.stack([delta.square().sum(), (stands * delta).sum(), base.square().sum()])
        wanted, found, whole = sums.tolist()
        self.share = found / wanted if wanted else 1.0
        self.size = (wanted / whole) ** 0.5 if whole else 0.0
        self.sha256 = adapter.sha256

    @torch.no_grad()
    def unload(self) -> None:
        """Makes the transformer the base again."""
        self.sha256 = ""
        for name in list(self.base):
            self.weights[name].copy_(self.base.pop(name), non_blocking=True)
        self.share, self.size = 1.0, 0.0

    def _keep_base(self, weights: dict[str, Tensor]) -> None:
        """Copies these weights, which no adapter has touched yet."""
        here = room_on(self.device, sum(weight.nbytes for weight in weights.values()))
        self.base |= {name: weight.clone() for name, weight in weights.items()} if here else all_to_host(weights)
