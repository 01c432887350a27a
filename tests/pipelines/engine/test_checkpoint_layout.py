"""Checkpoints that an earlier version made: refused with what to do, never taken for damaged ones or read wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.storage.documents import Storage
from pipelines.engine.checkpoint import newest, place_of
from pipelines.recipe.errors import UserError
from pipelines.running.trained import open_trained
from pipelines.train import main

# what a manifest said of itself before it had a layout
EARLIER = {
    "step": 4, "digest": "d" * 64, "digest_since": 0, "images": 32, "seconds": 12.5, "quarantined": 0, "adapters": {"3": "a", "4": "b"},
    "evaluated": [0], "ranks": 1, "zero_stage": 1, "seed": 0, "recipe_sha256": "r", "prompts_sha256": "p", "heldout_sha256": "h",
    "init_adapter_sha256": "", "changes": [], "packages": {"torch": "2.11"},
}  # fmt: skip


@pytest.fixture
def earlier(tmp_path: Path) -> str:
    """The place of a run's checkpoints, with one of the earlier layout, whole."""
    root = str(tmp_path / "run" / "checkpoints")
    files = {"policy.safetensors": b"policy", "adapter/pytorch_lora_weights.safetensors": b"adapter"}
    Storage().write(place_of(root, 4), EARLIER, {"records/recipe.toml": b"", "records/metrics.jsonl": b""}, files)
    return root


def test_it_is_refused_with_what_to_do_and_not_passed_over_as_damaged(earlier: str) -> None:
    with pytest.raises(
        UserError, match=r'step-000004 is a checkpoint of layout 1, .* policy.init_adapter = ".*/adapter"'
    ):
        newest(earlier)


@pytest.mark.parametrize("resume", [[], ["checkpoints/step-000004"]])
def test_a_run_does_not_go_on_from_it(
    earlier: str, tiny_world: Path, capsys: pytest.CaptureFixture[str], resume: list[str]
) -> None:
    run = Path(earlier).parent
    out = run if not resume else run.parent / "other"
    named = [str(run / place) for place in resume]
    assert main([str(tiny_world), "--out", str(out), "--executor", "local", "--resume", *named]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is a checkpoint of layout 1, and this version reads layout 2: go on with the version that made it" in said
    assert not (out / "metrics.jsonl").exists()
    assert json.loads((run / "checkpoints/step-000004/manifest.json").read_text())["images"] == EARLIER["images"]


def test_nor_is_its_adapter_taken_for_a_checkpoint_of_this_layout(earlier: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a checkpoint of layout 1"):
        open_trained(place_of(earlier, 4), "last", tmp_path)
