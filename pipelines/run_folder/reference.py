"""Writes docs/run_folder.md from the code: each file of a run folder, each key of a record, each event.

python -m pipelines.run_folder.reference > docs/run_folder.md
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

from pydantic import BaseModel

from pipelines.recipe.pages import markdown_table, words_of
from pipelines.run_folder.events import KINDS
from pipelines.run_folder.records import ChunkSpans, HeldoutRecord, PromptFigures, Spread, StepRecord, Timeline

HEAD = """# The run folder

What a run leaves in the folder, or at the URL, that `--out` names. Files of JSON lines grow by one line at a time, all
others are replaced as a whole, so that a run which is killed leaves a folder that can be read. `pipelines/run_folder/`
writes and reads it; this page is made from its code (`python -m pipelines.run_folder.reference > docs/run_folder.md`),
and a test holds it to that.

| file | what it holds |
|---|---|
| `recipe.toml` | the resolved recipe, defaults included; `recipe-1.toml` and so on are earlier ones, if resumes changed it |
| `metrics.jsonl` | a line for each step (below) |
| `heldout.jsonl` | a line for each evaluation at each guidance scale (below) |
| `heldout-until-000100.jsonl` | the lines before a resume with other held-out prompts |
| `events.jsonl` | a line for each event (below) |
| `status.json` | running, done, stopped or failed; since when (Unix time); the driver's pid; a message |
| `summary.json` | how the run ended: `status`, `digest`, steps, images, seconds, the held-out figures before and after |
| `report.html` | the report: one page that opens offline |
| `tokens.json` | the log-probability of every word of the caption, for the best and the worst held-out groups |
| `workers.json` | what each worker of the latest start runs on: node, device, driver, torch, dtype |
| `samples/*.png` | grids of held-out images, with their captions in the file |
| `samples/step-000100.parquet` | training images that were kept (`samples.every`), in the folder or at the URL that `--out` names |
| `checkpoints/step-000100/` | a checkpoint, unless `loop.checkpoints` names another place; `manifest.json` says what is in it |
| `tensorboard/` | the figures for TensorBoard (`monitor.tensorboard`) |
| `scores/*.parquet` | of `score`: a row for each image (docs/scoring.md) |
| `scores.json` | of `score`: the rows that the report shows, and why others have no score |
| `judged/*.parquet` | of `evaluate`: a row for each image (docs/evaluating.md) |
| `adapters/` | of `evaluate`: the LoRAs that draw, and `models.json`, which names what they belong to |
| `inputs.json` | of programs that train nothing: what must be unchanged when the run is resumed |
| `*.damaged` | a file that was damaged when the run was resumed, as it was |
"""
PARTS = (Spread, Timeline, ChunkSpans, PromptFigures)


def reference() -> str:
    """The page."""
    sections = [
        HEAD,
        *_section("## A line of metrics.jsonl", StepRecord),
        *_section("## A line of heldout.jsonl", HeldoutRecord),
        "## Parts of these lines\n",
        *(text for part in PARTS for text in _section(f"### {part.__name__}", part)),
        "## Events\n\nEach line has `time` (Unix), `kind`, and the fields of its kind.\n",
        *(text for kind, event in KINDS.items() for text in _section(f"### {kind}", event)),
    ]
    return "\n".join(sections)


def _section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"{title}\n\n{cleandoc(model.__doc__ or '')}\n"
    rows = [
        (f"`{name.rstrip('_')}`", words_of(field.annotation, none="null"), field.description or "")
        for name, field in model.model_fields.items()
    ]
    yield markdown_table(("key", "type", "what it says"), rows)


if __name__ == "__main__":
    print(reference(), end="")
