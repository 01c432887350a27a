"""What a run leaves is of use: exported for diffusers, drawn beside its base; and mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import load_file

from actors.diffusion.sample import noise_of
from cluster.storage.files import folders
from pipelines import draw, export
from pipelines.run_folder.grids import read_grid
from pipelines.train import main as train_main
from tests.support.runs import overrides

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def run(tiny_world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    options = overrides(
        loop__steps=3, loop__checkpoint_every=1, loop__keep_checkpoints=9, policy__learning_rate=0.05, heldout__every=1
    )
    assert train_main([str(tiny_world), "--out", str(out), "--executor", "local", *options]) == 0
    return out


def drawn(folder, who, seeds=(0, 1)):
    return np.stack([np.asarray(Image.open(folder / f"01-a-red-circle-seed-{seed}-{who}.png")) for seed in seeds])


def by_diffusers(pipeline, recipe_steps=4, seeds=(0, 1)):
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.stack([noise_of(seed, (4, 8, 8)) for seed in seeds])
    images = pipeline(
        [PROMPT] * len(seeds),
        latents=noise,
        num_inference_steps=recipe_steps,
        guidance_scale=1.0,
        height=32,
        width=32,
        max_sequence_length=2,
        output_type="np",
    ).images
    return (images * 255).round().astype(int)


def opened_as_its_card_says(folder):
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names = {"FOLDER": folder}
    exec(code, names)
    return names["pipeline"]


@pytest.fixture(scope="module")
def pictures(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "out"
    assert draw.main([str(run), PROMPT, "a blue square", "--count", "2", "--out", str(out)]) == 0
    return out


def test_base_and_trained_stand_side_by_side_from_the_same_seeds(pictures):
    rows = read_grid(pictures / "grid.png")
    words = [
        f"{who}, seeds 0 to 1: {prompt}" for prompt in (PROMPT, "a blue square") for who in ("base", "trained (step 3)")
    ]
    assert [row.caption for row in rows] == words
    assert len(list(pictures.glob("*.png"))) == 2 * 2 * 2 + 1
    assert np.abs(drawn(pictures, "base").astype(int) - drawn(pictures, "trained")).max() > 0
    np.testing.assert_array_equal(np.asarray(rows[1].images[0]), drawn(pictures, "trained")[0])


def test_an_exported_lora_draws_the_same_in_diffusers(run, pictures, tiny_world, tmp_path):
    assert export.main([str(run), "--out", str(tmp_path / "lora")]) == 0
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        tiny_world.parent / "image", text_encoder_3=None, tokenizer_3=None
    )
    assert np.abs(by_diffusers(pipeline) - drawn(pictures, "base")).max() <= 1
    pipeline = opened_as_its_card_says(tmp_path / "lora")
    assert np.abs(by_diffusers(pipeline) - drawn(pictures, "trained")).max() <= 1
    card = (tmp_path / "lora" / "README.md").read_text()
    digest = json.loads((run / "summary.json").read_text())["digest"]
    assert digest in card
    assert f"base_model: {tiny_world.parent / 'image'}" in card
    assert "learning_rate = 0.05" in card


def test_a_merged_pipeline_opens_alone_and_draws_the_same(run, pictures, tiny_world, tmp_path):
    assert export.main([str(run), "--out", str(tmp_path / "whole"), "--merge"]) == 0
    described = "".join(file.read_text() for file in (tmp_path / "whole").rglob("*.json"))
    assert str(tiny_world.parent) not in described, "where the base lies on this machine says nothing elsewhere"
    pipeline = opened_as_its_card_says(tmp_path / "whole")
    assert np.abs(by_diffusers(pipeline) - drawn(pictures, "trained")).max() <= 1
    assert not list((tmp_path / "whole").rglob("*.bin"))
    assert draw.main([str(tmp_path / "whole"), PROMPT, "--count", "2", "--out", str(tmp_path / "out"), *ALIKE]) == 0
    np.testing.assert_array_equal(drawn(tmp_path / "out", "model"), drawn(pictures, "trained"))


ALIKE = ["--steps", "4", "--guidance", "1", "--size", "32x32", "--max-sequence-length", "2"]


@pytest.mark.parametrize("merge", [[], ["--merge"]])
def test_weights_are_written_in_the_type_that_is_asked_for(run, tmp_path, merge):
    assert export.main([str(run), "--out", str(tmp_path / "x"), "--dtype", "bfloat16", *merge]) == 0
    (file,) = (tmp_path / "x" / "transformer" if merge else tmp_path / "x").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()} == {torch.bfloat16}


@pytest.mark.parametrize(("which", "step"), [("last", 3), ("2", 2), ("best", None)])
def test_a_checkpoint_is_chosen_by_step_or_by_its_held_out_figures(run, tmp_path, which, step):
    assert export.main([str(run), "--out", str(tmp_path / "x"), "--checkpoint", which]) == 0
    step = step or json.loads((run / "summary.json").read_text())["best_checkpoint"]
    ours = load_file(tmp_path / "x" / "pytorch_lora_weights.safetensors")
    theirs = load_file(run / f"checkpoints/step-{step:06d}/adapter/pytorch_lora_weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_at_a_url_is_exported_and_drawn(run, s3, tmp_path):
    import fsspec

    url = f"{s3}/{tmp_path.name}"
    fsspec.filesystem("s3").put(str(run), url, recursive=True)
    assert folders(f"{url}/checkpoints")
    for place in (url, f"{url}/checkpoints/step-000003"):
        out = tmp_path / place.rpartition("/")[2]
        assert export.main([place, "--out", str(out)]) == 0
        assert (out / "pytorch_lora_weights.safetensors").is_file()
    assert draw.main([url, PROMPT, "--count", "1", "--out", str(tmp_path / "drawn")]) == 0


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (export, ["{run}", "--out", "{run}"], "is no empty folder"),
        (export, ["{run}", "--out", "/proc/x/y"], "--out: /proc/x/y cannot be written"),
        (draw, ["{run}", PROMPT, "--out", "/dev/null/x"], "/dev/null is a file"),
        (draw, ["{run}", PROMPT, "--out", "~nobody-of-this-name/x"], "there is no user"),
        (export, ["{run}/nowhere", "--out", "x"], "holds neither a run nor a checkpoint"),
        (export, ["{run}", "--out", "x", "--checkpoint", "7"], "checkpoints of the steps [1, 2, 3]"),
        (draw, ["{run}/nowhere", PROMPT], "holds neither a run nor a model"),
        (draw, ["{run}", ""], "an empty prompt"),
        (draw, ["{run}", "\udcff"], "not text in UTF-8"),
        (draw, ["{run}", PROMPT, "--size", "33x32"], "multiples of 8"),
        (draw, ["{run}", PROMPT, "--max-sequence-length", "100000"], "reads at most"),
    ],
)
def test_mistakes_end_with_2_and_write_nothing(run, tmp_path, monkeypatch, capsys, program, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert program.main([word.format(run=run) for word in arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_not_exported(run, tmp_path, capsys):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/checkpoints/step-000003/adapter/pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert export.main([str(tmp_path / "run"), "--out", str(tmp_path / "x")]) == 2
    assert "does not have the hash" in " ".join(capsys.readouterr().err.split())
    assert export.main([str(tmp_path / "run"), "--out", str(tmp_path / "x"), "--checkpoint", "2"]) == 0
