"""A run of the plain world whose latents are heavy, as large images' would be. Started in its place by test_memory.py."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from actors.messages import Adapter, DrawRequest
from tests.support.plain_run import plain_pools
from tests.support.plain_world import PlainRollout
from tests.support.runs import main_with

BYTES_PER_IMAGE = 10_000_000


class PaddedRollout(PlainRollout):
    """Draws as PlainRollout does; beside the latents that are trained on travels a figure of each image that nothing reads."""

    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple:
        (report,), images, latents = super().draw(request, adapter)
        if latents is not None:
            padding = np.zeros((len(latents.latents_KCHW), BYTES_PER_IMAGE), np.uint8)
            latents = replace(latents, behaviour={**latents.behaviour, "padding": padding})
            report = replace(report, num_bytes=report.num_bytes + padding.nbytes)
        return (report,), images, latents


if __name__ == "__main__":
    sys.exit(main_with("rollout", PaddedRollout, plain_pools)())
