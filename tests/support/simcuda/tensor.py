"""The tensor of the simulated device, and what becomes of each of torch's operators on it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.weak import WeakIdKeyDictionary

from tests.support.simcuda.events import note

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
READS = {  # the host needs their numbers, or their size depends on them
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_consecutive.default,
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
ONLY_ON_CUDA = {  # operators that have no kernel for a CPU, or not for these types
    aten.histc.default: lambda tensor, *bins: tensor.float().histc(*bins).to(tensor.dtype),
    aten.mm.dtype: lambda left, right, out_dtype: left.to(out_dtype) @ right.to(out_dtype),
}
_pinned = WeakIdKeyDictionary()  # storages of the host that a GPU could read by itself


class CudaTensor(Tensor):
    """Says that it is on cuda:0; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> CudaTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner  # type: ignore[attr-defined]

    def tolist(self) -> list:
        note("wait", "tolist", True)
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, **kwargs: Any) -> str:
        return f"CudaTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class Operators(TorchDispatchMode):
    """Within it operators that name the device, but have no tensor of it yet, make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class Functions(TorchFunctionMode):
    """Within it what makes a tensor of Python's numbers makes it on the device; no operator shows that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], CudaTensor):
            return func(args[0], _lists_as_tensors(args[1]), *args[2:])
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs)
        if isinstance(args[0], Tensor) and func is torch.as_tensor:
            device, dtype = kwargs.get("device") or args[0].device, kwargs.get("dtype") or args[0].dtype
            return args[0].to(device=device, dtype=dtype)
        if not on_device(kwargs.get("device")) or isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": CPU}).to(CUDA)


def on_device(device: Any) -> bool:
    """Whether these words mean the simulated device."""
    return device is not None and (isinstance(device, int) or torch.device(device).type == "cuda")


def pin(tensor: Tensor) -> Tensor:
    """A copy in page-locked memory, from and to which a GPU copies without its host waiting."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return made.copy_(tensor)


def is_pinned(tensor: Tensor) -> bool:
    """Whether its storage is page-locked."""
    return not isinstance(tensor, CudaTensor) and tensor.untyped_storage() in _pinned


def remember_pinned(tensor: Tensor) -> Tensor:
    """The tensor, whose storage counts as page-locked from now on."""
    _pinned[tensor.untyped_storage()] = True
    return tensor


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes on the CPU, tells what a GPU would have waited for or copied, and gives a tensor of the right device.

    Raises RuntimeError where CUDA does: for tensors of both devices.
    """
    ours: list[CudaTensor] = []
    hosts: list[Tensor] = []
    _sort(args, ours, hosts)
    _sort(kwargs.values(), ours, hosts)
    wanted = on_device(kwargs.get("device"))
    if not ours and not wanted:
        return func(*args, **kwargs)
    given = bool(ours) and kwargs.get("device") is None
    _refuse_mixtures(func, ours, hosts)
    _tell(func, args, kwargs, ours, hosts, to_device=wanted or given)
    changed = {name: CPU if name == "device" and wanted else value for name, value in kwargs.items()}
    changed.pop("pin_memory", None)
    result = ONLY_ON_CUDA.get(func, func)(*_inner(args), **_inner(changed))
    if not (wanted or given):
        return result
    made = _outer(result)
    return return_and_correct_aliasing(func, args, kwargs, made) if ours and _aliases(func) else made


def _sort(values: Iterable[Any], ours: list[CudaTensor], hosts: list[Tensor]) -> None:
    """Adds the tensors among the values to those of the device and those of the host."""
    for value in values:
        if isinstance(value, CudaTensor):
            ours.append(value)
        elif isinstance(value, Tensor):
            hosts.append(value)
        elif isinstance(value, list | tuple):
            _sort(value, ours, hosts)


@cache
def _aliases(func: Any) -> bool:
    """Whether what the operator gives is, or shares its storage with, what it was given."""
    return any(result.alias_info is not None for result in func._schema.returns)


def _lists_as_tensors(index: Any) -> Any:
    """An index whose lists are tensors of the host, which torch would else make below all that can be seen."""
    if isinstance(index, tuple):
        return tuple(_lists_as_tensors(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _inner(value: Any) -> Any:
    """The same with tensors of the CPU in the place of the device's."""
    if isinstance(value, CudaTensor):
        return value.inner
    if isinstance(value, dict):
        return {name: _inner(part) for name, part in value.items()}
    return type(value)(map(_inner, value)) if type(value) in (list, tuple) else value


def _outer(value: Any) -> Any:
    """The inverse of `_inner`."""
    if type(value) is Tensor:
        return CudaTensor(value)
    return type(value)(map(_outer, value)) if type(value) in (list, tuple) else value


def _refuse_mixtures(func: Any, ours: list[CudaTensor], hosts: list[Tensor]) -> None:
    """Numbers of the host may stand beside tensors of the device, and indices may come from it; nothing else."""
    if ours and any(host.ndim for host in hosts) and func not in COPIES and func not in INDEXING:
        shapes = [tuple(host.shape) for host in hosts]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got tensors of cuda:0 and, of shape {shapes}, of cpu"
        )


def _tell(func: Any, args: Any, kwargs: Any, ours: list[CudaTensor], hosts: list[Tensor], to_device: bool) -> None:
    """Notes the waits and copies of one operator."""
    if func in COPIES:
        in_place = func is aten.copy_.default
        to_device = isinstance(args[0], CudaTensor) if in_place else to_device
        source, host = (args[1] if in_place else args[0]), (args[1] if to_device else args[0]) if in_place else args[0]
        if isinstance(source, CudaTensor) == to_device:
            return
        freely = bool(args[2:] and args[2]) if in_place and len(args) > 2 else kwargs.get("non_blocking", False)
        if (
            to_device or in_place
        ):  # else the host's side is made by the copy, which torch page-locks where it does not wait
            freely = freely and is_pinned(host)
        note("to device" if to_device else "to host", str(func), not freely, source.numel() * source.element_size())
    elif func in INDEXING:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        for index in indices:
            if not isinstance(index, CudaTensor) and isinstance(args[0], CudaTensor):
                note("to device", f"index of {func}", True, index.numel() * index.element_size())
        filled = func is not aten.index.Tensor and args[2].numel() == 1
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not filled:
            note("wait", f"{func} by a mask", True)
    elif func in READS or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        note("wait", str(func), True)
