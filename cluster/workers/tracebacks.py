"""What the error of a worker says: its last lines, where the whole would hide them, and whether the worker can go on after it."""

from __future__ import annotations

import re
import traceback

START_LINES = 20
# What CUDA says once and for all: whatever its process computes afterwards fails as well. To be out of memory is not among it.
_GPU_LOST = re.compile(r"CUDA error|AcceleratorError|CUBLAS_STATUS|cuDNN|device-side assert|uncorrectable ECC")


def last_lines(error: Exception) -> str:
    """The end of its traceback: the last calls that led to it, and its text."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(lines if len(lines) <= START_LINES else ["...", *lines[-START_LINES:]])


def gpu_is_lost(text: str) -> bool:
    """Whether an error's text says that its process can compute nothing more on its GPU."""
    return _GPU_LOST.search(text) is not None
