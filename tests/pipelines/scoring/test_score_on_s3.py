"""`score` with its images, and its run folder, on S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.score_world import ROWS, main, make_score_world

NAME = "promptecho"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_score_world(tmp_path)


def score(recipe: Path, out: Path | str, *more: str) -> int:
    return main([str(recipe), "--out", str(out), "--executor", "local", *more])


def summary_of(out: Path | str) -> dict[str, Any]:
    with fsspec.open(f"{out}/summary.json") as file:
        return json.load(file)


def in_parquet(recipe: Path, path: Path) -> Path:
    """The set with the images in the file, as `datasets` writes it, in row groups of four."""
    pictures = recipe.parent / "pictures"
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        file = pictures / row["file_name"]
        row["image"] = {"bytes": file.read_bytes() if file.is_file() else None, "path": row["file_name"]}
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    return path


def test_images_and_run_folder_may_lie_on_s3(recipe: Path, s3: str, tmp_path: Path) -> None:
    score(recipe, tmp_path / "here")
    here, there, s3fs = summary_of(tmp_path / "here"), f"{s3}/{tmp_path.name}", fsspec.filesystem("s3")
    s3fs.put(f"{tmp_path}/pictures/", f"{there}/pictures/", recursive=True)
    s3fs.put(str(in_parquet(recipe, tmp_path / "set.parquet")), f"{there}/set.parquet")
    for number, images in enumerate(("pictures", "set.parquet")):
        out = f"{there}/run-{number}"
        assert score(recipe, out, "--set", f"data.images={there}/{images}") == 0
        assert summary_of(out)["digest"] == here["digest"]
        assert len(s3fs.glob(f"{out}/scores/*.parquet")) == -(-ROWS // 4)
        assert s3fs.exists(f"{out}/report.html")


def test_a_run_on_s3_goes_on_from_what_is_written_there(recipe: Path, s3: str, tmp_path: Path) -> None:
    out, s3fs = f"{s3}/{tmp_path.name}/run", fsspec.filesystem("s3")
    score(recipe, out)
    whole = summary_of(out)
    gone, kept = s3fs.glob(f"{out}/scores/*.parquet")[2:4]
    s3fs.rm(gone)
    at = s3fs.info(kept)["LastModified"]
    assert score(recipe, out, "--resume") == 0
    assert summary_of(out)["digest"] == whole["digest"]
    assert s3fs.exists(gone)
    assert s3fs.info(kept)["LastModified"] == at, "a file that is whole is left alone"
