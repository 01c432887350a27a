"""Records of runs that were never computed, and what stands on a page that is made of them."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.run_folder.records import HeldoutRecord, StepRecord, Tag

VOID = {"meta", "img", "input", "br", "line", "circle", "polyline", "polygon", "path", "rect"}


class Page(HTMLParser):
    """The text of a page, and what it would load; fails on tags that do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.loads: list[str] = []
        self.charts = 0
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        self.charts += any(name == "data-chart" for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def metric(step: int, **more: Any) -> StepRecord:
    quantiles = {"ratio_p05": 0.9, "ratio_p50": 1.0, "ratio_p95": 1.1, "clip_fraction": 0.25}
    update = {"loss": -0.1 * step, "loss_policy": -0.2, "kl_reference": 0.01, "kl_ema": 0.002, "grad_norm": 0.5}
    return StepRecord(
        step=step,
        policy_version=step,
        staleness=[min(1, step - 1)] * 2,
        staleness_mean=min(1, step - 1),
        staleness_max=min(1, step - 1),
        reward_mean=math.nan if step == 2 else 0.1 * step,
        reward_std=0.05,
        seconds={"draw": 0.3, "score": 0.1, "update": 0.3, "export": 0.01, "step": 0.4},
        busy={"rollout": 0.9, "reward": 0.2, "policy": 0.8},
        images_per_s=80.0,
        digest="d1" * 32,
        by_category={"colours": 0.5, "counting": 0.25},
        **{**quantiles, **update, **more},
    )


def evaluation(tag: Tag, step: int, guidance: float, accuracy: float | None, reward: float = 0.5) -> HeldoutRecord:
    categories = {} if accuracy is None else {"colours": accuracy + 0.1, "counting": accuracy - 0.1, "even": 0.5}
    rewards = {"colours": reward + 0.1, "counting": reward - 0.1}
    checks = {} if accuracy is None else {"accuracy": accuracy, "ghost": 0.04}
    prompts = {
        f"{category}-{n}": {"category": category, "images": 2, "reward": reward, "checks": {"accuracy": value}}
        for category, value in categories.items()
        for n in range(3)
    }
    return HeldoutRecord(
        tag=tag,
        step=step,
        guidance=guidance,
        images=200,
        checks=checks,
        checks_by_category={"accuracy": categories, "ghost": {}} if checks else {},
        reward=reward,
        reward_by_category=rewards,
        by_prompt=prompts,
    )


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
