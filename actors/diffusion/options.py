"""How a worker holds an image model. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from actors.options import Change, Device, DType, Table


class ImageModelOptions(Table):
    """What the tables of all workers with an image model have."""

    device: Device = "auto"
    """Where it computes; `auto`: on the GPU that the worker holds, else on the CPU."""
    dtype: DType = "auto"
    """In what it computes; `auto`: bfloat16 on a GPU that has it, else float32."""
    compile: bool = False
    """Whether the blocks of the transformer run through torch.compile, on a GPU."""
    text_encoders: Annotated[Literal["keep", "park"], Change.FREE] = "keep"
    """`park`: they lie in the host's memory while nothing is encoded."""
