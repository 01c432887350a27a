"""Image sets: each form gives the same rows, and what is wrong with one row is told of that row alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.data.image_files import read_image
from pipelines.data.images import ImageRow, find_images, sha256_of
from pipelines.recipe.errors import UserError

CAPTIONS = {"a.png": "a red circle", "b.png": "a blue square", "c.png": "a green cross"}


def png(shade: int, size: tuple[int, int] = (4, 6), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), shade, np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


CONTENTS = {name: png(50 * number) for number, name in enumerate(CAPTIONS)}


def with_metadata(folder: Path) -> str:
    lines = [json.dumps({"file_name": name, "caption": caption}) for name, caption in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def with_text_files(folder: Path) -> str:
    for name, caption in CAPTIONS.items():
        (folder / name).with_suffix(".txt").write_text(caption + "\n")
    return str(folder)


def parquet(folder: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=2)
    return str(folder / "rows.parquet")


FORMS: dict[str, Callable[[Path], str]] = {
    "a folder with metadata.jsonl": with_metadata,
    "metadata.jsonl": lambda folder: f"{with_metadata(folder)}/metadata.jsonl",
    "a folder with text files": with_text_files,
    "a glob": lambda folder: f"{with_text_files(folder)}/*.png",
    "Parquet with names": lambda folder: parquet(folder, file_name=list(CAPTIONS), caption=list(CAPTIONS.values())),
    "Parquet with images": lambda folder: parquet(
        folder,
        image=[{"bytes": content, "path": name} for name, content in CONTENTS.items()],
        text=list(CAPTIONS.values()),
    ),
    "a folder of Parquet files": lambda folder: str(
        Path(
            parquet(folder, file_name=list(CAPTIONS), image=list(CONTENTS.values()), caption=[*CAPTIONS.values()])
        ).parent
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_and_images(folder: Path, form: str) -> None:
    rows = find_images(FORMS[form](folder))
    assert {row.file_name: row.caption for row in rows} == CAPTIONS
    assert [int(read_image(row)[0, 0, 0]) for row in rows] == [0, 50, 100]
    assert read_image(rows[0]).shape == (4, 6, 3)


def test_a_set_is_the_same_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    here = find_images(with_metadata(folder))
    system.put(f"{folder}/", "/set/", recursive=True)
    for place in ("memory://set", "memory://set/metadata.jsonl"):
        there = find_images(place)
        assert sha256_of(there) == sha256_of(here)
        assert (read_image(there[2]) == read_image(here[2])).all()
    assert sha256_of(here[:2]) != sha256_of(here)
    assert [row.file_name for row in find_images("memory://set/*.png")] == list(CAPTIONS)


def test_a_line_that_is_no_row_says_why_and_its_neighbours_stay(folder: Path) -> None:
    lines = [
        b'{"file_name": "a.png", "caption": "a red circle"}',
        b"no json",
        b'{"caption": "of nothing"}',
        b'{"file_name": "b.png", "caption": 7}',
        b"\xff\xfe",
        b'{"file_name": "b.png"}',
    ]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))
    rows = find_images(str(folder))
    assert [row.file_name for row in rows] == ["a.png", "line 2", "line 3", "b.png", "line 5", "b.png"]
    assert [bool(row.problem) for row in rows] == [False, True, True, True, True, False]
    with pytest.raises(ValueError, match="not JSON"):
        read_image(rows[1])
    assert rows[5].caption == ""


def test_captions_have_the_common_names_in_metadata_too(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a red circle"}\n{"file_name": "b.png"}')
    assert [row.caption for row in find_images(str(folder))] == ["a red circle", ""]
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a red circle", "prompt": "draw"}')
    assert [row.caption for row in find_images(str(folder), "prompt")] == ["draw"]
    with pytest.raises(UserError, match="which field is the caption, text or prompt"):
        find_images(str(folder))


@pytest.mark.parametrize("form", ["metadata.jsonl", "Parquet with names", "Parquet with images"])
def test_a_field_for_the_caption_that_no_row_has_is_a_users_mistake(folder: Path, form: str) -> None:
    with pytest.raises(UserError, match=r"data\.caption = 'captoin': no row has such a field; there are"):
        find_images(FORMS[form](folder), "captoin")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>", "no image that can be read"),
        (CONTENTS["b.png"][:-30], "damaged"),
        (png(7, mode="I;16"), "more than 8 bits"),
        (None, "there is no file"),
    ],
)
def test_what_is_no_image_says_why(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_image(ImageRow("x.png", "", str(path)))


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        (tmp_path / "x.png").write_bytes(png(255, mode=mode))
        assert read_image(ImageRow("x.png", "", str(tmp_path / "x.png"))).tolist() == np.full((4, 6, 3), 255).tolist()


def test_a_row_of_parquet_without_bytes_says_so(tmp_path: Path) -> None:
    place = parquet(tmp_path, image=[CONTENTS["a.png"], None, CONTENTS["c.png"]], caption=["a", "b", None])
    rows = find_images(place)
    assert [(row.file_name, row.caption) for row in rows] == [
        ("rows.parquet#0", "a"),
        ("rows.parquet#1", "b"),
        ("rows.parquet#2", ""),
    ]
    with pytest.raises(ValueError, match="holds no bytes"):
        read_image(rows[1])
    assert int(read_image(rows[2])[0, 0, 0]) == 100


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ("nowhere", "there is nothing there"),
        ("nowhere/*.png", "no image is there"),
        ("nowhere.jsonl", "there is nothing there"),
        ("{folder}/note.md", "is no image set"),
        ("{folder}/empty", "no image is there"),
        ("{folder}/rows.parquet", "neither a column `image` nor `file_name`"),
        ("{folder}/broken.parquet", "broken.parquet"),
    ],
)
def test_a_set_that_is_none_is_a_users_mistake(folder: Path, images: str, told: str) -> None:
    (folder / "note.md").write_text("hello")
    (folder / "empty").mkdir()
    (folder / "broken.parquet").write_bytes(b"PAR1")
    parquet(folder, caption=["a"])
    with pytest.raises(UserError) as error:
        find_images(images.format(folder=folder))
    assert told in str(error.value)
    assert "data.images" in str(error.value)
