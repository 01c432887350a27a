"""Gangs of one and of two ranks that the tests of this room share."""

from collections.abc import Iterator

import pytest

from tests.support.gang import Gang


@pytest.fixture(scope="session")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Gang]]:
    """Gangs by their number of ranks; all processes start at the same time."""
    made = {ranks: Gang(ranks, tmp_path_factory.mktemp(f"gang_{ranks}")) for ranks in (1, 2)}
    yield made
    for gang in made.values():
        gang.close()
