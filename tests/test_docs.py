"""Pages for people: lines that fit a terminal and a diff, and links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {".git", ".venv", "runs", "node_modules"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not ELSEWHERE & set(path.relative_to(ROOT).parts))
COLUMNS = 120
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def text_of(page: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are no code."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if not code and not re.match(r" {4}\S", line):
            yield number, line


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The same without tables."""
    return ((number, line) for number, line in text_of(page) if not line.lstrip().startswith("|"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_fits_into_120_columns(page: Path) -> None:
    assert [(number, line) for number, line in prose(page) if len(line) > COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = [target for _, line in text_of(page) for target in LINK.findall(line) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []
