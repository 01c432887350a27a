"""`caption` with the miniature judge: what it says is true, whoever writes it; and the way from pictures to a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.paths import ROOT
from pipelines.caption import main as caption
from pipelines.evaluate import main as evaluate
from pipelines.train import main as train
from toy.world import COLOURS, SHAPES

PICTURES = ROOT / "toy/data/pictures"
RECIPES = ROOT / "recipes"
HELDOUT = ROOT / "toy/data/heldout.jsonl"


def run(program: Any, recipe: str, out: Path, **values: object) -> dict[str, Any]:
    """The summary of a run in this process."""
    words = [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    assert program([str(RECIPES / recipe), "--out", str(out), "--executor", "local", *words]) == 0
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captions") / "run"
    run(caption, "toy_caption.toml", out)
    return out


def test_what_the_judge_writes_of_well_drawn_pictures_names_what_they_show(greedy: Path) -> None:
    known = {line["file_name"]: line["caption"] for line in map(json.loads, (PICTURES / "metadata.jsonl").open())}
    rows = [row for path in sorted((greedy / "captions").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    good = [row for row in rows if row["file_name"].endswith("-good.png")]
    assert len(good) == 24
    words = {*COLOURS, *SHAPES}
    wanted = {row["file_name"]: words & set(known[row["file_name"]].split()) for row in good}
    assert [row["file_name"] for row in good if not wanted[row["file_name"]] <= set(row["caption"].split())] == []


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_caption_is_the_same_alone_in_a_batch_and_by_any_of_four_writers(
    greedy: Path, tmp_path: Path, temperature: float
) -> None:
    one = greedy
    if temperature:
        one = tmp_path / "one"
        run(caption, "toy_caption.toml", one, writer__temperature=temperature)
    alone = run(
        caption,
        "toy_caption.toml",
        tmp_path / "alone",
        writer__temperature=temperature,
        writer__size=4,
        captions__in_flight=1,
    )
    assert alone["digest"] == json.loads((one / "summary.json").read_text())["digest"]
    other = run(caption, "toy_caption.toml", tmp_path / "other", writer__temperature=temperature, run__seed=1)
    assert (other["digest"] == alone["digest"]) == (temperature == 0)


def test_captions_train_a_model_that_is_evaluated_on_prompts_that_they_leave_out(tmp_path: Path) -> None:
    """The documented way, shortened: docs/captioning.md."""
    captions, trained = tmp_path / "captions", tmp_path / "trained"
    made = run(caption, "toy_caption.toml", captions, captions__apart_from=HELDOUT, captions__heldout_share=0.3)
    assert made["left_out"] > 0
    short = {"loop__steps": 1, "rollout__prompts_per_step": 2, "rollout__groups_per_task": 2, "data__mix": "{}"}
    run(
        train,
        "toy.toml",
        trained,
        data__train=captions / "prompts/train.parquet",
        data__heldout="",
        heldout__images_per_category=1,
        **short,
    )
    summary = run(
        evaluate,
        "toy_evaluate.toml",
        tmp_path / "evaluated",
        models__trained=trained,
        heldout__images_per_category=1,
        heldout__guidance_scales="[1.0]",
        heldout__chunk=1,
        heldout__shard_images=12,
    )
    assert set(summary["models"]) == {"base", "trained"}
    assert all(0 <= found["accuracy"] <= 1 for found in summary["models"].values())
