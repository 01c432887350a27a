"""torch.compile of a transformer, block by block: one graph serves all blocks of a kind, and takes seconds where the whole took minutes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

GRAPHS = 64  # of a kind of block, before torch gives up and runs it as it is written: adapters, lengths and odd batches each want one


def compile_blocks(transformer: nn.Module, **options: Any) -> None:
    """Lets torch compile the blocks that the transformer lists, for any length, when they are first called. `options`: of torch.compile."""
    torch._dynamo.config.recompile_limit = GRAPHS
    for blocks in (child for child in transformer.children() if isinstance(child, nn.ModuleList)):
        for block in blocks:
            block.compile(dynamic=True, **options)


def uncompiled(network: nn.Module) -> AbstractContextManager[object]:
    """Within it what is compiled of a network runs as it is written: what torch compiles depends on the shapes that it met, in order."""
    compiled = any(module._compiled_call_impl is not None for module in network.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
