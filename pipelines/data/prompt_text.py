"""Prompt files in text, as people have them: .txt, .csv, .tsv, .json and .jsonl, each also as .gz; cut into records."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

from cluster.storage import files
from pipelines.data.strict_json import JsonError, NotJson, kind_of, parse
from pipelines.recipe.errors import UserError

Records = Iterator[tuple[str, Any]]  # where each stands, and its fields, or whatever else stands there

MARKS = {  # the longer one first where one begins like the other
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
MARK = "\ufeff"  # of byte order: within a text where files were put together
GZIP = b"\x1f\x8b"
FOREIGN = {  # how files begin that hold no prompts to read
    b"PAR1": "a Parquet file: give it a name that ends in .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as .csv",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it, or use gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or use gzip",
    b"BZh": "compressed by bzip2: unpack it, or use gzip",
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: run `git lfs pull`",
    b"<!doctype html": "a web page: download the file itself (its raw form)",
    b"<html": "a web page: download the file itself (its raw form)",
}
JSON_ENDINGS = (".jsonl", ".json", ".ndjson")
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".txt")


def read_records(place: str) -> Records:
    """The records of a file, by its ending, with where each stands.

    Raises OSError if it cannot be read, and UserError for what is no such file; both name the file, the latter the line as well.
    """
    name = place.lower().removesuffix(".gz")
    text = decoded(_unpacked(files.read(place), place), place)
    if name.endswith(".txt"):
        return _text_lines(text, place)
    if name.endswith((".csv", ".tsv")):
        return _rows(text, place, tabs=name.endswith(".tsv"))
    if name.endswith(JSON_ENDINGS) or text.lstrip()[:1] in ("{", "["):
        return _json(text, place, whole=name.endswith(".json"))
    if not text.strip():
        return iter(())
    raise UserError(
        f"{place}: what kind of file is it? Give it a name that ends in {', '.join(ENDINGS)} or .parquet (.gz may follow)"
    )


def decoded(data: bytes, place: str) -> str:
    """A file's text: UTF-8, or what its byte order mark says. Raises UserError that names the first byte that is neither."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    if what := foreign(data):
        raise UserError(f"{place} is {what}")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        line = data.count(b"\n", 0, at) + 1
        raise UserError(
            f"{place} is not text in {encoding.upper()}: byte {at}, in line {line}. Save it as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{place} holds NUL bytes, the first at character {text.index(chr(0))}: it is no text, or UTF-16 without a byte order "
            "mark. Save it as UTF-8"
        )
    return text


def foreign(data: bytes) -> str:
    """What a file is that begins so, and what to do; "" if that is not known."""
    start = data[: max(map(len, FOREIGN))].lower()
    return next((what for magic, what in FOREIGN.items() if start.startswith(magic.lower())), "")


def _unpacked(data: bytes, place: str) -> bytes:
    """What a gzip file holds; other files as they are, whatever their ending."""
    try:
        return gzip.decompress(data) if data.startswith(GZIP) else data
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{place} cannot be unpacked ({error}): it was cut or damaged; write it again") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with more than white space, by number. They end at a line feed alone, or, without any, at a carriage return."""
    end = "\n" if "\n" in text else "\r"
    lines = (line.removeprefix(MARK) for line in text.split(end))
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _text_lines(text: str, place: str) -> Records:
    for number, line in _lines(text):
        yield f"{place}, line {number}", {"caption": line.strip()}


def _json(text: str, place: str, whole: bool) -> Records:
    """An array, or a value a line."""
    if text.lstrip()[:1] == "[":
        yield from _array(text, place)
        return
    if whole and text.strip():
        _check_no_object(text, place)
    for number, line in _lines(text):
        try:
            yield f"{place}, line {number}", parse(line.strip("\r \t"))
        except JsonError as error:
            wanted = '; each line must be an object such as {"caption": "a red circle"}'
            raise UserError(f"{place}, line {number}: {error}{wanted if isinstance(error, NotJson) else ''}") from None


def _array(text: str, place: str) -> Records:
    try:
        entries = parse(text)
    except JsonError as error:
        raise UserError(f"{place}: {error}") from None
    for number, entry in enumerate(entries, start=1):
        yield f"{place}, entry {number}", entry


def _check_no_object(text: str, place: str) -> None:
    """Raises UserError for a .json file that holds one value and no array: it is hardly a set of one prompt."""
    try:
        found = parse(text)
    except JsonError:
        return  # lines, each of which is looked at by itself
    names = f" with {_some(list(found))}" if isinstance(found, dict) else ""
    raise UserError(
        f"{place} is {kind_of(found)}{names}: give an array of objects, or an object a line in a file that ends in .jsonl"
    )


def _rows(text: str, place: str, tabs: bool) -> Records:
    """The rows of a table whose first line names the columns; empty cells are left out."""
    if not text.strip():
        return iter(())
    text = text.lstrip("\r\n")
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = "\t" if tabs else max(",;\t", key=head.count)
    if tabs:  # many files of this kind know no quotes
        try:
            return iter(list(_table(text, place, delimiter, csv.QUOTE_MINIMAL)))
        except UserError:
            return _table(text, place, delimiter, csv.QUOTE_NONE)
    return _table(text, place, delimiter, csv.QUOTE_MINIMAL)


def _table(text: str, place: str, delimiter: str, quoting: int) -> Records:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may be as long as the file
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            where = f"{place}, line {line}"
            line = reader.line_num + 1
            if not names:
                names = _names(cells, where)
            elif len(cells) > len(names):
                raise UserError(
                    f"{where}: {len(cells)} cells, but there are {len(names)} columns ({', '.join(names)}): "
                    "put text that holds the separator in quotes"
                )
            elif any(map(str.strip, cells)):
                yield where, {name: cell for name, cell in zip(names, cells, strict=False) if name and cell.strip()}
    except csv.Error as error:
        raise UserError(f"{place}, line {line}: {error}; is a quote missing?") from None


def _names(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise UserError(f"{where}: the column `{min(twice)}` comes twice; rename one of them")
    return names


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
