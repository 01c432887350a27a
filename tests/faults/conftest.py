"""Runs to hurt, each checked for leftovers when its test ends, and the digests that they must have.

Most are of the plain world, whose workers start at once: what is hurt is the driver, the cluster or storage. `start_tiny` is
of the tiny models, for what cannot be shown without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.run_folder.folder import RunFolder
from tests.faults.harness import LOCAL, PLAIN, QUICK, digest_in, eventually_nothing, left_on_the_cluster
from tests.support.faults_world import Run, overrides
from tests.support.plain_run import in_no_time

Start = Callable[..., Run]
Reference = Callable[..., str]


@pytest.fixture
def start_in(ray_cluster: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a run of a recipe on the shared cluster, at another address, or (address "") with a Ray of its own.

    Nothing of it may outlive the test.
    """
    runs: list[Run] = []

    def start_run(
        recipe: Path,
        name: str = "run",
        out: Path | None = None,
        address: str = ray_cluster,
        program: str = "pipelines.train",
        resume: bool = False,
        **settings: object,
    ) -> Run:
        options = overrides(**{**QUICK, **settings})
        if resume:
            options.append("--resume")
        where = {"address": address, "said": tmp_path / f"{name}.log", "program": program}
        runs.append(Run(recipe, out or tmp_path / name, *options, **where))
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()
    assert eventually_nothing(left_on_the_cluster) == []


@pytest.fixture
def start(start_in: Start, plain_world: Path) -> Start:
    """Starts a run of the plain world."""
    return partial(start_in, plain_world, program=PLAIN)


@pytest.fixture
def start_tiny(start_in: Start, tiny_world: Path) -> Start:
    """Starts a run of the tiny models."""
    return partial(start_in, tiny_world)


@pytest.fixture(scope="session")
def reference(plain_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The digest of a run of the plain world in this process, in which nothing can fail."""
    digests: dict[str, str] = {}

    def reference_of(**settings: object) -> str:
        options = overrides(**{**QUICK, **settings})
        if (key := " ".join(options)) not in digests:
            out = tmp_path_factory.mktemp("reference") / "run"
            assert in_no_time([str(plain_world), "--out", str(out), *LOCAL, *options]) == 0
            digests[key] = digest_in(RunFolder(out))
        return digests[key]

    return reference_of
