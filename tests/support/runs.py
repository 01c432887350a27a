"""Whole runs in this process, as tests ask for them, and the records that they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.train import main


def overrides(**values: object) -> list[str]:
    """`--set` for each value; two underscores in a name stand for a dot."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def train(recipe: Path, out: Path, *options: str, code: int = 0) -> dict[str, Any]:
    """A run that ends with this exit code; its summary if that is 0."""
    assert main([str(recipe), "--out", str(out), "--executor", "local", *options]) == code
    return json.loads((out / "summary.json").read_text()) if code == 0 else {}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
