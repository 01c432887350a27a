"""Hub names: the cache is enough, and where it is not, one sentence says what is in the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from actors.mistake import Mistake
from actors.models.folder import check_pipeline, check_vlm
from actors.models.hub import local_folder
from actors.models.path import PIPELINE_MARKER, VLM_MARKER
from tests.support.cases import TOY_MODELS
from tests.support.hub import hub as a_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with a_hub(monkeypatch):
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def keep(cache: Path, name: str, kind: str) -> Path:
    """The toy model in the cache, as a download leaves it."""
    model, revision = cache / f"models--{name.replace('/', '--')}", "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    return shutil.copytree(TOY_MODELS / kind, model / "snapshots" / revision)


def test_what_the_cache_holds_needs_no_connection(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, judge = keep(cache, "someone/image", "image"), keep(cache, "someone/judge", "judge")
    for endpoint, offline in (("http://127.0.0.1:1", False), (constants.ENDPOINT, True)):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        assert local_folder("someone/image", PIPELINE_MARKER) == image
        assert local_folder("someone/judge", VLM_MARKER) == judge
    check_pipeline(image)
    check_vlm(judge)


def test_a_hub_that_does_not_answer_is_said_with_its_address(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Mistake, match=r"someone/image is not in the hub's cache .*127\.0\.0\.1:1\) does not answer"):
        local_folder("someone/image", PIPELINE_MARKER)


def test_a_machine_that_is_told_to_stay_offline_is_said_to_be(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Mistake, match="HF_HUB_OFFLINE forbids to download it"):
        local_folder("someone/judge", VLM_MARKER)


@pytest.mark.usefixtures("hub", "cache")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("someone/gated", "is gated: accept its terms on the hub, and set HF_TOKEN"),
        ("someone/unknown", "the hub knows no model someone/unknown"),
    ],
)
@pytest.mark.parametrize("marker", [PIPELINE_MARKER, VLM_MARKER])
def test_a_model_that_the_hub_does_not_give_is_said_with_the_reason(name: str, told: str, marker: str) -> None:
    with pytest.raises(Mistake, match=told):
        local_folder(name, marker)
