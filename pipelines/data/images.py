"""Image sets: which images there are, and their captions. A row that cannot be used says why, and ends nothing.

A set is a folder of images, a glob, Parquet, or a `metadata.jsonl` with `file_name` and `caption`, on this disk or at a URL.
Only names and captions are held; the images are read one by one (pipelines/data/image_files.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import files
from pipelines.data.prompt_fields import CAPTIONS, Fields, shown
from pipelines.data.prompt_files import Pieces
from pipelines.data.strict_json import JsonError, parse
from pipelines.recipe.errors import UserError

METADATA = "metadata.jsonl"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMS = f"a folder of images, a glob, a {METADATA}, or Parquet with a column `image` or `file_name`"
MAGIC = re.compile(r"[*?\[]")  # of a glob
FILE_NAME, IMAGE = "file_name", "image"


@dataclass(frozen=True)
class ImageRow:
    """One image of a set. `row`: which of the Parquet file at `place`, if the image stands in it. `problem`: why there is none."""

    file_name: str
    caption: str
    place: str = ""
    row: int | None = None
    problem: str = ""


def find_images(images: str, caption: str | None = "", key: str = "data.images") -> list[ImageRow]:
    """The rows of a set, in its order. `caption`: the field with the caption, "" for the common names; None: captions are not asked for.

    Raises UserError for a set that is not there, is empty, or of which no row could be read.
    """
    fields = None if caption is None else Fields(caption)
    try:
        rows = list(_rows(images, fields))
    except FileNotFoundError:
        raise UserError(f"{key} = {images!r}: there is nothing there; give {FORMS}") from None
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise UserError(f"{key} = {images!r}: {error}; give {FORMS}") from error
    if not rows:
        raise UserError(f"{key} = {images!r}: no image is there; give {FORMS}")
    if fields and fields.caption and fields.seen and not fields.found:
        raise UserError(f"data.caption = {caption!r}: no row has such a field; there are {shown(sorted(fields.seen))}")
    return rows


def sha256_of(rows: Sequence[ImageRow]) -> str:
    """Of names and captions in their order: by this a run knows its set again, wherever it has moved."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.file_name, row.caption)).encode())
    return digest.hexdigest()


def _rows(images: str, fields: Fields | None) -> Iterator[ImageRow]:
    system, root = files.system_at(images, files.BRIEF)
    if MAGIC.search(images) and not system.exists(root):
        folder = MAGIC.split(root)[0].rpartition("/")[0]
        places = [_place(images, name) for name in sorted(system.glob(root))]
        return _of_names(_place(images, folder), places, fields)
    if not system.isdir(root):
        return _of_file(images, fields)
    names = files.files(images)
    if METADATA in names:
        return _of_metadata(f"{images}/{METADATA}", fields)
    return _of_names(images, [f"{images}/{name}" for name in names if not name.startswith(".")], fields)


def _of_file(place: str, fields: Fields | None) -> Iterator[ImageRow]:
    if place.endswith(".jsonl"):
        return _of_metadata(place, fields)
    if place.endswith(".parquet"):
        return _of_parquet(place, fields)
    files.size(place)
    if not place.lower().endswith(ENDINGS):
        raise UserError(f"{place} is no image set; give {FORMS}")
    return _of_names(place.rpartition("/")[0], [place], fields)


def _of_names(folder: str, places: Sequence[str], fields: Fields | None) -> Iterator[ImageRow]:
    """Parquet files, if there are any; else images, each with its caption in a text file of its name."""
    if parquet := [place for place in places if place.endswith(".parquet")]:
        for place in parquet:
            yield from _of_parquet(place, fields)
        return
    there = set(places)
    for place in places:
        if place.lower().endswith(ENDINGS):
            name, text = place.removeprefix(f"{folder}/"), f"{place.rpartition('.')[0]}.txt"
            yield ImageRow(name, "", place) if fields is None else _beside(place, text, name, text in there)


def _beside(place: str, text: str, name: str, listed: bool) -> ImageRow:
    try:
        caption = files.read(text).decode().strip() if listed or files.exists(text) else ""
    except UnicodeDecodeError:
        return ImageRow(name, "", place, problem=f"its caption, {text}, is not UTF-8")
    return ImageRow(name, caption, place)


def _of_metadata(place: str, fields: Fields | None) -> Iterator[ImageRow]:
    """Of lines of JSON with `file_name`, which leads from the file's folder, and the caption."""
    folder = place.rpartition("/")[0] or "."
    for number, line in enumerate(files.read(place).removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _of_record(parse(line.decode()), folder, fields, number)
        except UnicodeDecodeError:
            yield ImageRow(f"line {number}", "", problem="the line is not UTF-8")
        except JsonError as error:
            yield ImageRow(f"line {number}", "", problem=str(error))


def _of_record(record: Any, folder: str, fields: Fields | None, number: int) -> ImageRow:
    if not isinstance(record, dict) or not isinstance(name := record.get(FILE_NAME), str) or not name.strip():
        return ImageRow(f"line {number}", "", problem=f"the line has no `{FILE_NAME}`")
    caption = _caption_in(record, fields, f"line {number}") if fields else None
    text = record[caption] if caption else None
    if text is not None and not isinstance(text, str):
        return ImageRow(name, "", problem=f"`{caption}` is no text")
    return ImageRow(name, text or "", _leading(folder, name))


def _caption_in(record: Mapping[str, Any], fields: Fields, where: str) -> str | None:
    """The field with the caption; None if the record has none. Raises UserError if it could be several."""
    if any(name == fields.caption or name.strip().lower() in CAPTIONS for name in record):
        return fields.of(list(record), where)["caption"]
    fields.seen |= record.keys()
    return None


def _of_parquet(place: str, fields: Fields | None) -> Iterator[ImageRow]:
    """Of a file with the images in it, or with the names of their files, which lead from its folder."""
    folder, file = place.rpartition("/")[0] or ".", pq.ParquetFile(Pieces(place))
    schema = file.schema_arrow
    caption, columns = fields and fields.of(schema.names, place)["caption"], []
    within = IMAGE in schema.names
    if not within and FILE_NAME not in schema.names:
        raise UserError(f"{place} has neither a column `{IMAGE}` nor `{FILE_NAME}`, but {', '.join(schema.names)}")
    if FILE_NAME in schema.names:
        columns = [FILE_NAME]
    elif pa.types.is_struct(schema.field(IMAGE).type) and schema.field(IMAGE).type.get_field_index("path") >= 0:
        columns = [f"{IMAGE}.path"]
    number = 0
    for batch in file.iter_batches(columns=[*([caption] if caption else []), *columns]):
        for record in batch.to_pylist():
            name = record.get(FILE_NAME) or (record.get(IMAGE) or {}).get("path") or ""
            yield _of_columns(place, folder, number, name, caption and record[caption], within)
            number += 1


def _of_columns(place: str, folder: str, number: int, name: Any, caption: Any, within: bool) -> ImageRow:
    shown = str(name or f"{place.rpartition('/')[2]}#{number}")
    if not isinstance(caption, str | None):
        return ImageRow(shown, "", problem="the caption is no text")
    if within:
        return ImageRow(shown, caption or "", place, number)
    return ImageRow(
        shown, caption or "", _leading(folder, name) if name else "", problem="" if name else "no file_name"
    )


def _leading(folder: str, name: str) -> str:
    """Where a name leads from a folder."""
    return name if "://" in name or name.startswith("/") else f"{folder}/{name}"


def _place(images: str, name: str) -> str:
    """A name that a file system listed, as it is asked for."""
    protocol, colon, _ = images.partition("://")
    return f"{protocol}://{name}" if colon else name
