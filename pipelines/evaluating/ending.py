"""After the last image, or a stop: what each model's images add up to, the digest, and which pictures the report shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.digest import FIRST, next_digest
from pipelines.evaluating.sheets import Sheets, Way
from pipelines.evaluating.work import CHECKS, COLUMNS, EvaluateWork, picture_of
from pipelines.evaluation.comparison import ACCURACY
from pipelines.evaluation.statistics import category_means, macro_interval, mean
from pipelines.run_folder.folder import RunFolder
from pipelines.run_folder.shards import REASON, Record

FAILURES_SHOWN = 20
Values = dict[str, dict[str, list[float]]]  # by category, by prompt


@dataclass
class Standing:
    """A model's images in one way: each figure's values, how many images there are, and how many of them failed."""

    images: int = 0
    failed: int = 0
    figures: dict[str, Values] = field(default_factory=dict)

    def add(self, record: Record, figures: Iterable[tuple[str, float]]) -> None:
        """One more image, with what was said of it."""
        self.images += 1
        self.failed += record[REASON] is not None
        for name, value in figures:
            values = self.figures.setdefault(name, {})
            values.setdefault(record["category"], {}).setdefault(record["prompt_id"], []).append(value)

    def words(self, name: str) -> Record:
        """Of a figure: the mean over categories of the means over their images, its interval, by category, and of how many images."""
        values = self.figures.get(name, {})
        found = category_means((category, each) for category, prompts in values.items() for each in prompts.values())
        prompts = {category: [(mean(each), len(each)) for each in of.values()] for category, of in values.items()}
        images = sum(len(each) for of in values.values() for each in of.values())
        interval = macro_interval(prompts)
        return {"mean": mean(found.values()), "interval": interval, "by_category": found, "images": images}


@dataclass
class Result:
    """What all images come to; made in one pass, with a file in memory at a time."""

    rewards: Sequence[str]
    digest: str = FIRST
    images: int = 0
    failed: int = 0
    checks: dict[str, None] = field(default_factory=dict)
    standings: dict[str, dict[Way, Standing]] = field(default_factory=lambda: defaultdict(dict))
    reasons: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """The next image."""
        checks = dict(record[CHECKS] or ())
        scores = [(name, record[name]) for name in self.rewards if record[name] is not None]
        self.digest = next_digest(self.digest, *(record[name] for name in COLUMNS), scores, list(checks.items()))
        self.images += 1
        self.failed += record[REASON] is not None
        if record[REASON] and record[REASON] not in self.reasons and len(self.reasons) < FAILURES_SHOWN:
            self.reasons.append(record[REASON])
        self.checks |= dict.fromkeys(checks)
        way = Way(record["guidance"], record["height"], record["width"])
        self.standings[record["model"]].setdefault(way, Standing()).add(record, [*checks.items(), *scores])

    @property
    def measure(self) -> str:
        """By which figure models are compared: "accuracy", else the checker's first, else the first reward."""
        return ACCURACY if ACCURACY in self.checks else next(iter(self.checks), self.rewards[0])

    def shares(self) -> list[str]:
        """The checker's figures that are shares of images: those that lie in [0, 1], everywhere."""
        found = dict(self.checks)
        for standing in (each for ways in self.standings.values() for each in ways.values()):
            for name, categories in standing.figures.items():
                values = (value for prompts in categories.values() for of in prompts.values() for value in of)
                if not all(0 <= value <= 1 for value in values):
                    found.pop(name, None)
        return list(found)

    def words(self, model: str) -> Record:
        """Of a model: its figures in the way that was given first, and all ways."""
        ways = [self._way(way, standing) for way, standing in self.standings[model].items()]
        first = ways[0] if ways else {"checks": {}, "rewards": {}}
        accuracy = first["checks"].get(ACCURACY, {"mean": None, "by_category": {}})
        rewards = {name: said["mean"] for name, said in first["rewards"].items()}
        return {
            "accuracy": accuracy["mean"],
            "by_category": accuracy["by_category"],
            "rewards": rewards,
            "ways": ways,
        }

    def _way(self, way: Way, standing: Standing) -> Record:
        return {
            "guidance": way.guidance,
            "height": way.height,
            "width": way.width,
            "images": standing.images,
            "failed": standing.failed,
            "checks": {name: standing.words(name) for name in self.checks},
            "rewards": {name: standing.words(name) for name in self.rewards},
        }


def result_of(records: Iterable[Record], rewards: Sequence[str]) -> Result:
    """Of images in their order."""
    result = Result(rewards)
    for record in records:
        result.add(record)
    return result


def write_summary(work: EvaluateWork, folder: RunFolder, status: str) -> Result:
    """summary.json, and what the report shows; returns what all images come to."""
    sheets, seconds = work.sheets, work.seconds()
    result = result_of(work.shards.records(), work.rewards)
    folder.summary(
        {
            "status": status,
            "digest": result.digest,
            "seconds": seconds,
            "images": work.shards.rows,
            "written": result.images,
            "failed": result.failed,
            "measure": result.measure,
            "shares": result.shares(),
            "models": {
                model.name: {
                    "what": model.words(),
                    "step": model.step,
                    "sha256": model.sha256,
                    **result.words(model.name),
                }
                for model in sheets.models
            },
            "reasons": result.reasons,
            "notes": list(sheets.recipe.run.notes),
            "shown": list(_shown(sheets)),
        }
    )
    return result


def _shown(sheets: Sheets) -> Iterator[dict[str, Any]]:
    """Of each picture of the report, what it shows."""
    for number, sheet in enumerate(sheets.all):
        if sheet.shown:
            way = {"guidance": sheet.way.guidance, "prompt_id": sheet.prompt.id}
            yield {"model": sheet.model.name, **way, "caption": sheet.prompt.caption, "picture": picture_of(number)}
