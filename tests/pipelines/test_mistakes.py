"""A user's mistake ends a run with exit code 2 and one sentence, before any worker starts where files suffice to see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModelWithProjection

from pipelines import train
from pipelines.reporting.page import write_report
from pipelines.run_folder.folder import RunFolder
from tests.support.cases import TOY_MODELS
from tests.support.plain_run import in_no_time
from tests.support.plain_world import unscorable
from tests.support.runs import overrides

Run = Callable[..., int]


@pytest.fixture
def run(tiny_world: Path, tmp_path: Path) -> Run:
    """Trains in this process with some settings; the exit code."""

    def run_with(*settings: str) -> int:
        options = [word for setting in ("heldout.every=1000", *settings) for word in ("--set", setting)]
        return train.main([str(tiny_world), "--out", str(tmp_path / "run"), "--executor", "local", *options])

    return run_with


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("rollout.height=36", "rollout.height = 36: this model draws multiples of 8"),
        ("rollout.width=4096", "rollout.width = 4096: this model draws at most"),
        ("policy.max_sequence_length=9999", "policy.max_sequence_length = 9999: this model reads at most 512 tokens"),
        ("reward.image_pixels=100", "reward.image_pixels = 100: a judge of the type llava reads images of one size"),
        ("heldout.checker=tests.support.shapes:chekc", "has no chekc; did you mean check?"),
        ("heldout.checker=tests.support.tiny_world:make_tiny_world", "make_tiny_world in"),
        ("heldout.checker=tests.no_such:check", 'give "module:function"'),
        ("heldout.checker=tests.support.tiny_world", 'give "module:function"'),
        ("policy.device=cuda", 'policy.device = "cuda", but this machine has no GPU'),
        ("reward.device=cuda", 'reward.device = "cuda", but this machine has no GPU'),
    ],
)
def test_what_files_tell_is_told_before_any_worker_starts(
    run: Run,
    setting: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("pipelines.running.job.make_executor", lambda *_: pytest.fail("a worker was to be started"))
    monkeypatch.setattr("pipelines.preflight.checks.GPU_FILES", ())
    assert run(setting) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_what_only_a_worker_finds_is_one_sentence_and_exit_2(
    run: Run, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Path(shutil.copytree(tiny_world.parent / "judge", tmp_path / "judge"))
    (judge / "chat_template.jinja").write_text("{{ raise_exception('a system message comes first') }}")
    assert run(f"reward.model={judge}") == 2
    said = capsys.readouterr().err
    assert "a system message comes first" in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def test_captions_of_which_the_judge_reads_nothing_are_named_by_their_ids(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    captions = {"nothing seen": "\u200b\u200b", "no word": "<script>", "good": "a red circle", "one word": "\u200bred!"}
    prompts.write_text("".join(json.dumps({"id": name, "caption": text}) + "\n" for name, text in captions.items()))
    assert run(f"data.train={prompts}", f"reward.model={TOY_MODELS / 'judge'}") == 2
    assert "knows no word of 2 of its captions" in (said := capsys.readouterr().err)
    assert "ids 'nothing seen', 'no word'. Take" in said


def blind_encoder(world: Path, word: str, folder: Path) -> Path:
    """A copy of the image model whose text encoder knows no number for a word."""
    shutil.copytree(world / "image", folder)
    model = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    vocabulary = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    with torch.no_grad():
        model.get_input_embeddings().weight[vocabulary[word]] = float("nan")
    model.save_pretrained(folder / "text_encoder")
    return folder


def test_images_that_are_no_numbers_quarantine_their_group_and_the_run_goes_on(
    run: Run, tiny_world: Path, tmp_path: Path
) -> None:
    model = blind_encoder(tiny_world.parent, "square", tmp_path / "image")
    assert run(f"policy.model={model}") == 0
    folder = RunFolder(tmp_path / "run")
    events = [line.fields for line in folder.read_events() if line.kind == "quarantine"]
    assert events
    assert all("square" in event["caption"] for event in events)
    assert all("the latents drawn for prompt" in event["message"] for event in events)
    failures = [line.fields for line in folder.read_events() if line.kind == "failure"]
    assert len(failures) == len({(event["step"], event["group"], event["chunk"]) for event in failures}), "tried once"
    assert folder.read_summary()["status"] == "done"


def test_a_run_without_a_single_good_group_is_not_done(
    plain_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = overrides(**unscorable(tmp_path), loop__steps=2, loop__max_failures_in_row=1000)
    assert in_no_time([str(plain_world), "--out", str(tmp_path / "run"), "--executor", "local", *options]) == 1
    assert "no image was trained on: every group was quarantined" in capsys.readouterr().out
    folder = RunFolder(tmp_path / "run")
    assert folder.read_summary()["status"] == folder.read_state()["status"] == "failed"
    page = write_report(folder.path).read_text()
    assert page.index("no image was trained on") < page.index("Held-out"), "said at the top"


def grey_only(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """A checker that raises for all but the image with which it is tried."""
    if images_KHWC.std() > 0:
        raise KeyError("relation")
    return {"accuracy": [1.0] * len(images_KHWC)}


def test_a_run_whose_evaluation_has_no_image_is_not_done(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("heldout.checker=tests.pipelines.test_mistakes:grey_only", "loop.max_failures_in_row=1000")
    assert run(*settings) == 1
    assert "no held-out image of step 0 could be judged" in capsys.readouterr().out
    assert RunFolder(tmp_path / "run").read_summary()["steps"] == 3, "what was trained is kept"
