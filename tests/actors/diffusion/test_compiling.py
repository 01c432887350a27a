"""Blocks that torch compiles compute what they are written to, and few graphs serve all of them and all sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.diffusion.compiling import compile_blocks
from tests.actors.diffusion.drawing import CAPTION, SIZE, WIDE, load, noise, prompted
from toy.random_models.families import MAKERS

KINDS = 3  # of blocks at most; the tiny transformers have one or two each


@pytest.mark.parametrize("kind", ["sd3", "z-image"])
def test_compiled_blocks_compute_the_same_and_share_their_graphs(kind: str, tmp_path: Path) -> None:
    folder = str(MAKERS[kind](tmp_path))
    graphs, sigma_B = [], torch.tensor([0.5])

    def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph)
        return graph.forward

    written, compiled = load(folder), load(folder)
    torch._dynamo.reset()
    compile_blocks(compiled.transformer, backend=backend)
    with torch.no_grad():
        for size in (SIZE, WIDE):
            found, expected = (
                family.guided_velocity(noise(family, 1, size), sigma_B, prompted(family, [CAPTION], 1.0))
                for family in (compiled, written)
            )
            torch.testing.assert_close(found, expected)
    assert 0 < len(graphs) <= 2 * KINDS, "not one for each block and size"
    torch._dynamo.reset()
