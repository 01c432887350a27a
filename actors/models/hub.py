"""From a model's name to its folder on this machine: a local folder, or what the hub's cache holds after a download.

One download, one try: with HF_HUB_OFFLINE or without a connection it is what the cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from actors.mistake import Mistake
from actors.models.folder import CHECKS, pipeline_parts
from actors.models.kinds import NamedModel
from actors.models.path import MARKERS, PIPELINE_MARKER, check_model

READ = ("*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors", "diffusion_pytorch_model*.safetensors")
"""What is downloaded of a folder: no pickles, and nothing of other frameworks."""
UNREAD = ("*.fp16.*", "*.fp16-*", "*.bf16.*", "*.bf16-*", "*.non_ema.*")


@dataclass(frozen=True)
class OnDisk:
    """Where a model lies on a machine, how large its files are, and whether it was given as a folder."""

    model: str
    folder: str
    num_bytes: int
    given: bool


def bring_here(models: Sequence[NamedModel]) -> list[OnDisk]:
    """Downloads models, and looks whether they are whole. Raises Mistake for the first that cannot be used. Loads no torch."""
    found = []
    for named in models:
        marker = MARKERS[named.kind]
        folder = local_folder(named.model, marker)
        CHECKS[named.kind](folder, named.family)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found.append(OnDisk(named.model, str(folder), size, given=(Path(named.model) / marker).is_file()))
    return found


def local_folder(model: str, marker: str) -> Path:
    """The folder of a model given by path or hub name, downloaded if need be. Raises Mistake where there is none."""
    check_model(model, marker)
    if (Path(model) / marker).is_file():
        return Path(model)
    try:
        if marker != PIPELINE_MARKER:
            return _snapshot(model, READ)
        parts = pipeline_parts(_snapshot(model, (marker,)))
        return _snapshot(model, (marker, *(f"{part}/{pattern}" for part in parts for pattern in READ)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise Mistake(_why_not(model, error)) from None


def _snapshot(model: str, patterns: tuple[str, ...]) -> Path:
    return Path(snapshot_download(model, allow_patterns=list(patterns), ignore_patterns=list(UNREAD)))


def _why_not(model: str, error: Exception) -> str:
    cache = constants.HF_HUB_CACHE
    if isinstance(error, GatedRepoError):
        return f"{model} is gated: accept its terms on the hub, and set HF_TOKEN (or log in) wherever workers run"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub knows no model {model}, or shows it to its owners alone (set HF_TOKEN): check the name, or give a folder"
    if constants.is_offline_mode():
        return (
            f"{model} is not in the hub's cache {cache}, and HF_HUB_OFFLINE forbids to download it: download it first, or give"
            " a folder"
        )
    if isinstance(error, HfHubHTTPError):
        return f"the hub does not give {model}: {error}"
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{model} is not in the hub's cache {cache}, and the hub ({constants.ENDPOINT}) does not answer: check the"
            " connection and HF_ENDPOINT, or give a folder"
        )
    return f"{model} cannot be downloaded to {cache}: {error}"
