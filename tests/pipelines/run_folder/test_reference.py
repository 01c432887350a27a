"""The page of the run folder is what the code says."""

from __future__ import annotations

from pathlib import Path

from pipelines.run_folder import folder
from pipelines.run_folder.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "run_folder.md"


def test_the_page_of_the_run_folder_is_made_from_the_code() -> None:
    assert PAGE.read_text() == reference(), "python -m pipelines.run_folder.reference > docs/run_folder.md"


def test_the_page_names_every_file_of_the_folder() -> None:
    names = [value for name, value in vars(folder).items() if name.isupper() and isinstance(value, str)]
    assert len(names) >= 8
    assert [name for name in names if f"`{name}`" not in PAGE.read_text()] == []
