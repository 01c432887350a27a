"""The miniature world learns: a short run on the committed models makes held-out images better, as the checker sees them."""

from __future__ import annotations

import json

from pipelines.train import main


def test_sixteen_steps_on_colours_are_seen_on_held_out_prompts(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    heldout = tmp_path / "colours.jsonl"
    with open("toy/data/heldout.jsonl") as lines:
        heldout.write_text("".join(line for line in lines if '"category": "colours"' in line))
    settings = {
        "loop.steps": 16,
        "policy.learning_rate": 8e-3,
        "loop.checkpoint_every": 1000,
        "data.mix": "{colours = 6}",
        "data.heldout": heldout,
        "rollout.prompts_per_step": 6,
        "heldout.every": 1000,
        "heldout.steps": 8,
        "heldout.base_guidance_scales": "[1.0]",
        "heldout.guidance_scales": "[1.0]",
    }
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "run"
    assert main(["recipes/toy.toml", "--out", str(out), "--executor", "local", *overrides]) == 0
    figures = json.loads((out / "summary.json").read_text())["heldout"]
    assert figures["after"]["accuracy"] > figures["before"]["accuracy"] + 0.1
    assert figures["after"]["reward"] > figures["before"]["reward"] + 0.05
    assert figures["after"]["checks"]["ghost"] < 0.15
