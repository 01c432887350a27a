"""Runs to hurt, each checked for leftovers when its test ends, and the digests that they must have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.faults_world import Run, overrides
from pipelines.run_folder import RunFolder
from pipelines.train import main
from tests.faults.harness import LOCAL, QUICK, digest_in, eventually_nothing, left_on_the_cluster

Start = Callable[..., Run]
Reference = Callable[..., str]


@pytest.fixture
def start(ray_cluster: str, tiny_world: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a run of the tiny world on the shared cluster, at another address, or (address "") with a Ray of its own.

    Nothing of it may outlive the test.
    """
    runs: list[Run] = []

    def start_run(
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
        runs.append(Run(tiny_world, out or tmp_path / name, *options, **where))
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()
    assert eventually_nothing(left_on_the_cluster) == []


@pytest.fixture(scope="session")
def reference(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The digest of a run in this process, in which nothing can fail."""
    digests: dict[str, str] = {}

    def reference_of(**settings: object) -> str:
        options = overrides(**{**QUICK, **settings})
        if (key := " ".join(options)) not in digests:
            out = tmp_path_factory.mktemp("reference") / "run"
            assert main([str(tiny_world), "--out", str(out), *LOCAL, *options]) == 0
            digests[key] = digest_in(RunFolder(out))
        return digests[key]

    return reference_of
