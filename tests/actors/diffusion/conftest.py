"""Fixtures of the families: a tiny model of each, read by us and by its diffusers pipeline."""

import pytest

from tests.actors.diffusion.drawing import copy_of, load, load_pipeline
from toy.random_models.families import MAKERS


@pytest.fixture(scope="session", params=sorted(MAKERS))
def kind(request):
    """The name of a tiny model."""
    return request.param


@pytest.fixture(scope="session")
def folder(kind, tmp_path_factory):
    return str(MAKERS[kind](tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="session")
def loaded(folder):
    """Shared: leave it as it is, or take a copy."""
    return load(folder)


@pytest.fixture
def family(loaded):
    return copy_of(loaded)


@pytest.fixture(scope="session")
def pipeline(folder):
    """Shared: leave it as it is."""
    return load_pipeline(folder)
