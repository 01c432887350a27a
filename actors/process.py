"""What every worker process sets before it loads a model. Importable without torch."""

from __future__ import annotations

import os


def prepare(num_threads: int | None, gpu_share: float = 0.0) -> None:
    """Fixes torch's number of threads, which decides the bytes on a CPU, and silences the libraries' loading messages.

    gpu_share: the GPUs that this worker holds; one that shares a GPU keeps to its share of the memory.
    """
    quiet()
    import torch

    from actors.device import limit_gpu_memory

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    limit_gpu_memory(gpu_share)


def quiet() -> None:
    """Silences what the libraries say while they load: what does not fit is told as a mistake (actors/model_weights.py)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
