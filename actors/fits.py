"""Whether the weights in local model folders fit their classes, asked in a process of its own, since the answer needs torch.

    python -m actors.fits KIND FOLDER [KIND FOLDER ...]

Prints a line of JSON: what does not fit in each of the folders, null where all fits. Only headers are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.mistake import Mistake
from actors.models.kinds import Kind

Folders = Sequence[tuple[Kind, Path]]
Misfits = tuple[str | None, ...]


def misfits(folders: Folders) -> Misfits:
    """What does not fit in folders that the checks of their kinds (actors/models/folder.py) have passed; None where all does."""
    from actors.process import quiet

    quiet()
    return tuple(_misfit(kind, folder) for kind, folder in folders)


def _misfit(kind: Kind, folder: Path) -> str | None:
    try:
        WEIGHTS[kind](folder)
    except Mistake as error:
        return str(error)
    return None


def _pipeline(folder: Path) -> None:
    from actors.diffusion.family import family_class
    from actors.models.weights import check_pipeline_weights

    check_pipeline_weights(folder, family_class(folder).ignored_weights)


def _vlm(folder: Path) -> None:
    from actors.models.weights import check_vlm_weights
    from actors.vlm.family import vlm_class

    check_vlm_weights(folder, vlm_class(folder).ignored_weights)


def _dual_encoder(folder: Path) -> None:
    from actors.models.weights import check_dual_encoder_weights

    check_dual_encoder_weights(folder)


WEIGHTS: dict[Kind, Callable[[Path], None]] = {"pipeline": _pipeline, "vlm": _vlm, "dual_encoder": _dual_encoder}

if __name__ == "__main__":
    words = iter(sys.argv[1:])
    given: Folders = [(kind, Path(next(words))) for kind in words]  # type: ignore[misc]
    print(json.dumps(misfits(given)))
