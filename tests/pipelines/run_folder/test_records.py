"""Records of steps and evaluations: what is written is what is read, and each key has its sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.monitoring.metric_table import TABLE
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.json_files import Damaged
from pipelines.run_folder.records import ChunkSpans, HeldoutRecord, PromptFigures, Row, Spread, StepRecord, Timeline

KINDS = (StepRecord, HeldoutRecord, PromptFigures, Spread, Timeline, ChunkSpans)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_its_sentence(kind: type[Row]) -> None:
    assert all(field.description for field in kind.model_fields.values())


def test_the_figures_of_objective_and_judge_stand_beside_the_steps_own() -> None:
    record = StepRecord.model_validate({"step": 3, "loss": 0.5, "log_gain": None, "reward_mean": 0.25})
    assert [record.figure(name) for name in ("loss", "log_gain", "reward_mean", "never", "copy")] == [
        0.5,
        None,
        0.25,
        None,
        None,
    ]
    assert record.line() == {"step": 3, "loss": 0.5, "log_gain": None, "reward_mean": 0.25}


@pytest.mark.parametrize("source", ["step", "heldout"])
def test_every_metric_that_is_watched_is_a_key_of_a_record_or_a_figure_of_the_objective(source: str) -> None:
    figures = {"loss", "kl_reference", "clip_fraction", "ratio_p05", "grad_norm", "learning_rate"}
    kind = StepRecord if source == "step" else HeldoutRecord
    heads = {metric.path.removeprefix("*.").split(".")[0].split("|")[0] for metric in TABLE if metric.source == source}
    assert heads <= kind.model_fields.keys() | figures


@pytest.mark.parametrize(
    ("line", "said"), [("{}", "step"), ('{"step": "two"}', "step"), ('{"step": 2, "tasks": [1]}', "tasks")]
)
def test_a_line_that_is_no_record_is_damage_and_named(tmp_path: Path, line: str, said: str) -> None:
    folder = RunFolder.create(tmp_path / "run", "")
    folder.metric(StepRecord(step=1))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(Damaged, match=rf"metrics\.jsonl is damaged: in line 2, {said}: "):
        folder.read_metrics()
