"""What a LoRA's file says of itself, and that one which cannot be read is named in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from actors.diffusion.adapter_file import PEFT_CONFIG, PEFT_WEIGHTS, WEIGHTS, find_adapter

DOWN = {"transformer.a.lora_A.weight": np.zeros((4, 8), np.float32)}


def test_rank_and_alpha_are_read(tmp_path: Path) -> None:
    described = json.dumps({"transformer.lora_alpha": 8})
    save_file(DOWN, tmp_path / WEIGHTS, metadata={"lora_adapter_metadata": described})
    found = find_adapter(str(tmp_path))
    assert (found.rank, found.alpha) == (4, 8.0)


@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b"3", b"\xe9", b"[" * 100_000, b'{"lora_alpha": "x"}'])
@pytest.mark.parametrize("beside", [False, True])
def test_a_description_that_is_none_is_told(tmp_path: Path, content: bytes, beside: bool) -> None:
    if beside:
        save_file(DOWN, tmp_path / PEFT_WEIGHTS)
        (tmp_path / PEFT_CONFIG).write_bytes(content)
    else:
        if not content or b"\xe9" in content:
            pytest.skip("a header holds text, and an empty one says nothing")
        save_file(DOWN, tmp_path / WEIGHTS, metadata={"lora_adapter_metadata": content.decode()})
    with pytest.raises(ValueError, match=r"no JSON|lora_alpha = 'x'"):
        find_adapter(str(tmp_path))


def test_a_scalar_in_place_of_a_matrix_is_no_lora(tmp_path: Path) -> None:
    save_file({"a.lora_A.weight": np.zeros((), np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="holds no LoRA"):
        find_adapter(str(tmp_path))
