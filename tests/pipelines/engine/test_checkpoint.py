"""Checkpoints of whole runs: any of them continues to the same digest, damaged ones are passed over, the best and the last ones stay.

Runs are of the plain world, but for what is said of the models' own files.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.numpy import load_file

from actors.diffusion.sample import noise_of
from actors.messages import Adapter
from actors.rollout.generate import Generator
from actors.rollout.options import GeneratorSettings
from cluster.storage import documents
from cluster.storage.files import folders
from pipelines.data.prompts import load_prompts
from pipelines.engine.checkpoint import newest, step_of
from pipelines.engine.messages import GroupKey, Unit
from pipelines.recipe.load import load_recipe
from pipelines.training.groups import Group, draw_request
from pipelines.training.heldout_plan import HeldoutPlan
from tests.support.gang import ON_CPU
from tests.support.plain_run import in_no_time
from tests.support.runs import lines_of, overrides, train

STEPS = 5
train_plainly = partial(train, program=in_no_time)


def events_of(out, kind):
    return [event for event in lines_of(out / "events.jsonl") if event["kind"] == kind]


def options_of(staleness):
    """A run that keeps a checkpoint of every step, with the moving average in use and a learning rate that changes."""
    return overrides(
        loop__staleness=staleness,
        loop__steps=STEPS,
        loop__checkpoint_every=1,
        loop__keep_checkpoints=100,
        policy__warmup_steps=3,
        policy__final_learning_rate=0.1,
        policy__learning_rate=0.01,
        objective__kl_ema=1.0,
    )


@pytest.fixture(scope="module")
def runs(plain_world, tmp_path_factory):
    """(folder, summary) of a run without interruption, by staleness."""
    folder = tmp_path_factory.mktemp("whole")
    return {s: (folder / str(s), train_plainly(plain_world, folder / str(s), *options_of(s))) for s in (0, 1, 2)}


@pytest.fixture(scope="module")
def tiny_run(tiny_world, tmp_path_factory):
    """The same of the tiny models, with staleness 1."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    return folder, train(tiny_world, folder, *options_of(1))


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_every_checkpoint_continues_to_the_same_digest(runs, plain_world, tmp_path, staleness):
    whole, summary = runs[staleness]
    for step in range(1, STEPS):
        out = tmp_path / str(step)
        place = whole / "checkpoints" / f"step-{step:06d}"
        resumed = train_plainly(plain_world, out, *options_of(staleness), "--resume", str(place))
        assert resumed["digest"] == summary["digest"]
        assert resumed["images"] == summary["images"]
        assert resumed["heldout"] == summary["heldout"]
        assert [record["digest"] for record in lines_of(out / "metrics.jsonl")] == [
            record["digest"] for record in lines_of(whole / "metrics.jsonl")
        ]
        assert events_of(out, "resumed")[0]["step"] == step


def test_the_tiny_models_continue_to_the_same_digest(tiny_run, tiny_world, tmp_path):
    whole, summary = tiny_run
    place = whole / "checkpoints" / "step-000003"
    resumed = train(tiny_world, tmp_path / "run", *options_of(1), "--resume", str(place))
    assert (resumed["digest"], resumed["heldout"]) == (summary["digest"], summary["heldout"])


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(runs, plain_world, tmp_path, capsys):
    whole, summary = runs[1]
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    places = {step_of(place): Path(place) for place in folders(str(out / "checkpoints"))}
    assert sorted(places) == list(range(1, STEPS + 1))
    (places[5] / "manifest.json").unlink()
    (places[4] / "policy.safetensors").write_bytes((places[4] / "policy.safetensors").read_bytes()[:-1])
    altered = bytearray((places[3] / "records" / "metrics.jsonl").read_bytes())
    altered[10] ^= 1
    (places[3] / "records" / "metrics.jsonl").write_bytes(altered)
    resumed = train_plainly(plain_world, out, *options_of(1), "--resume")
    assert resumed["digest"] == summary["digest"]
    assert events_of(out, "resumed")[-1]["step"] == 2
    problems = [event["problem"] for event in events_of(out, "checkpoint_damaged")]
    assert [problem.split("step-")[1][:6] for problem in problems] == ["000005", "000004", "000003"]
    printed = capsys.readouterr().out
    assert "policy.safetensors does not have the hash" in printed
    assert all(newest(str(out / "checkpoints"))[0].manifest.files)
    assert newest(str(out / "checkpoints"))[0].manifest.step == STEPS


def test_without_a_whole_checkpoint_the_run_begins_again(runs, plain_world, tmp_path):
    whole, summary = runs[0]
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for place in folders(str(out / "checkpoints")):
        (Path(place) / "manifest.json").unlink()
    resumed = train_plainly(plain_world, out, *options_of(0), "--resume")
    assert resumed["digest"] == summary["digest"]
    assert [record["step"] for record in lines_of(out / "metrics.jsonl")] == list(range(1, STEPS + 1))


def test_the_last_ones_and_the_best_stay(plain_world, tmp_path):
    out = tmp_path / "run"
    options = [*options_of(1), *overrides(loop__keep_checkpoints=1, heldout__every=2)]
    train_plainly(plain_world, out, *options)
    records = [record for record in lines_of(out / "heldout.jsonl") if record["guidance"] == 1.0 and record["step"]]
    best = max(records[:-1], key=lambda record: record["accuracy"])[
        "step"
    ]  # the last one is not finished at the last save
    kept = {step_of(place) for place in folders(str(out / "checkpoints"))}
    assert kept == {best, STEPS}
    train_plainly(plain_world, tmp_path / "last", *options, "--set", "loop.keep_best=false")
    assert {step_of(place) for place in folders(str(tmp_path / "last" / "checkpoints"))} == {STEPS}


def test_checkpoints_on_s3_outlive_the_run_folder(runs, s3, plain_world, tmp_path):
    _, summary = runs[1]
    url = f"{s3}/{tmp_path.name}"
    options = [*options_of(1), *overrides(loop__checkpoints=url)]
    assert train_plainly(plain_world, tmp_path / "first", *options)["digest"] == summary["digest"]
    assert not (tmp_path / "first" / "checkpoints").exists()
    assert len(folders(url)) == STEPS
    documents.remove(f"{url}/step-{STEPS:06d}")
    documents.remove(f"{url}/step-{STEPS - 1:06d}")
    resumed = train_plainly(plain_world, tmp_path / "second", *options, "--resume")
    assert resumed["digest"] == summary["digest"]
    assert [record["step"] for record in lines_of(tmp_path / "second" / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert events_of(tmp_path / "second", "resumed")[0]["step"] == STEPS - 2


def test_a_place_with_checkpoints_is_not_used_for_another_run(runs, plain_world, tmp_path, capsys):
    whole, _ = runs[1]
    options = [*options_of(1), *overrides(loop__checkpoints=whole / "checkpoints")]
    train_plainly(plain_world, tmp_path / "run", *options, code=2)
    assert "holds checkpoints of a run" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("place", ["nowhere", "checkpoints"])
def test_resuming_from_what_is_no_checkpoint_is_refused(runs, plain_world, tmp_path, capsys, place):
    whole, _ = runs[0]
    train_plainly(plain_world, tmp_path / "run", *options_of(0), "--resume", str(whole / place), code=2)
    assert "checkpoints/step-" in " ".join(capsys.readouterr().err.split())


def test_resuming_with_other_prompts_is_refused(runs, plain_world, tmp_path, capsys):
    whole, _ = runs[0]
    prompts = plain_world.parent / "train.jsonl"
    original = prompts.read_text()
    try:
        prompts.write_text("".join(original.splitlines(keepends=True)[1:]))
        train_plainly(
            plain_world, tmp_path / "run", *options_of(0), "--resume", str(whole / "checkpoints/step-000002"), code=2
        )
    finally:
        prompts.write_text(original)
    assert "prompt sets are not those of the run" in " ".join(capsys.readouterr().err.split())


def test_in_another_zero_stage_it_continues_and_the_digest_starts_anew(runs, plain_world, tmp_path, capsys):
    """That the ranks train the same but for rounding: tests/faults/test_ranks.py."""
    whole, summary = runs[0]
    options = [*options_of(0), *overrides(policy__zero_stage=2), "--resume", str(whole / "checkpoints/step-000003")]
    resumed = train_plainly(plain_world, tmp_path / "run", *options)
    assert resumed["digest"] != summary["digest"]
    assert resumed["digest_since"] == 3
    assert "the digest starts anew after step 3" in " ".join(capsys.readouterr().out.split())
    before, after = lines_of(whole / "metrics.jsonl"), lines_of(tmp_path / "run" / "metrics.jsonl")
    assert [record["digest"] for record in after[:3]] == [record["digest"] for record in before[:3]]
    assert [record["loss"] for record in after] == [record["loss"] for record in before]


def test_diffusers_alone_draws_what_the_run_evaluated(tiny_run, tiny_world, tmp_path):
    """`load_lora_weights(checkpoint/adapter)` and the pipeline itself give the images of the run's last evaluation."""
    whole, _ = tiny_run
    recipe = load_recipe(tiny_world, [])
    place = whole / "checkpoints" / f"step-{STEPS:06d}"
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        recipe.policy.model, text_encoder_3=None, tokenizer_3=None, image_encoder=None, feature_extractor=None
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(place / "adapter")
    heldout = HeldoutPlan(load_prompts(recipe.data.heldout, "data.heldout"), recipe.heldout, STEPS)
    length = recipe.policy.max_sequence_length
    generator = Generator(GeneratorSettings(recipe.policy.model, recipe.objective, ON_CPU, length))
    adapter = adapter_of(place)
    for number in range(2):
        unit = Unit("heldout", STEPS, number, 0)
        group = Group(GroupKey("heldout", STEPS, number), heldout.groups(STEPS)[number].prompt, STEPS)
        request = draw_request(recipe.run.seed, recipe.rollout, heldout, [(unit, group)], adapter.sha256)
        _, ours, _ = generator.draw(request, adapter)
        noise = torch.stack(
            [
                noise_of(seed, generator.family.latent_shape(request.height, request.width))
                for seed in request.parts[0].noise_seeds
            ]
        )
        draw = partial(
            pipeline,
            prompt=[request.parts[0].caption] * len(noise),
            latents=noise,
            num_inference_steps=request.num_steps,
            guidance_scale=request.guidance_scale,
            height=request.height,
            width=request.width,
            max_sequence_length=recipe.policy.max_sequence_length,
            output_type="np",
        )
        theirs = draw().images
        assert np.abs(ours.astype(int) - (theirs * 255).round().astype(int)).max() <= 1
        pipeline.disable_lora()
        base = draw().images
        pipeline.enable_lora()
        assert np.abs(base - theirs).max() > 1 / 255, "the adapter changes the pictures"


def test_the_adapter_of_a_checkpoint_is_the_one_that_draws_also_where_that_is_the_moving_average(tiny_world, tmp_path):
    options = overrides(
        objective__type="nft", objective__timesteps_per_sample=2, objective__old_decay_rate=0.4, loop__steps=2
    )
    train(tiny_world, tmp_path / "run", *options)
    place = tmp_path / "run" / "checkpoints" / "step-000002"
    drew, shown = adapter_of(place).tensors, load_file(place / "adapter" / "pytorch_lora_weights.safetensors")
    for name, tensor in drew.items():
        np.testing.assert_array_equal(shown[f"transformer.{name}"], tensor)


def adapter_of(place: Path) -> Adapter:
    """The adapter of the checkpoint's own step, as work in flight would draw with it."""
    manifest = json.loads((place / "manifest.json").read_text())
    recipe = load_recipe(place / "records" / "recipe.toml", [])
    tensors = load_file(place / "versions" / f"{manifest['step']:06d}.safetensors")
    sha256 = manifest["work"]["adapters"][str(manifest["step"])]
    return Adapter(manifest["step"], recipe.policy.lora_rank, recipe.policy.lora_alpha, (), sha256, tensors)
