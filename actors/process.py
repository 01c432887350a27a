"""What every worker process sets before it loads a model. Importable without torch."""

from __future__ import annotations

import os


def prepare(num_threads: int | None, gpu_share: float = 0.0) -> None:
    """Fixes torch's number of threads, which decides the bytes on a CPU, and silences the libraries' loading messages.

    gpu_share: the GPUs that this worker holds; one that shares a GPU keeps to its share of the memory.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from actors.device import limit_gpu_memory

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    limit_gpu_memory(gpu_share)
