"""Whether the weights in local model folders fit their classes, asked in a process of its own, since the answer needs torch.

    python -m actors.fits KIND FOLDER FAMILY [KIND FOLDER FAMILY ...]

FAMILY is empty, or what the recipe names. Prints a line of JSON: what does not fit in each of the folders, null where all fits.
Only headers are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.mistake import Mistake
from actors.models.kinds import Kind, NamedModel

Folders = Sequence[NamedModel]
"""Models whose names are local folders."""
Misfits = tuple[str | None, ...]


def misfits(folders: Folders) -> Misfits:
    """What does not fit in folders that the checks of their kinds (actors/models/folder.py) have passed; None where all does."""
    from actors.process import quiet

    quiet()
    return tuple(_misfit(named) for named in folders)


def _misfit(named: NamedModel) -> str | None:
    try:
        WEIGHTS[named.kind](Path(named.model), named.family)
    except Mistake as error:
        return str(error)
    return None


def _pipeline(folder: Path, family: str | None) -> None:
    from actors.diffusion.family import family_class
    from actors.models.weights import check_pipeline_weights

    check_pipeline_weights(folder, family_class(folder, family).ignored_weights)


def _vlm(folder: Path, family: str | None) -> None:
    from actors.models.weights import check_vlm_weights
    from actors.vlm.family import vlm_class

    check_vlm_weights(folder, vlm_class(folder, family).ignored_weights)


def _dual_encoder(folder: Path, family: str | None) -> None:
    from actors.models.weights import check_dual_encoder_weights

    check_dual_encoder_weights(folder)


WEIGHTS: dict[Kind, Callable[[Path, str | None], None]] = {
    "pipeline": _pipeline,
    "vlm": _vlm,
    "dual_encoder": _dual_encoder,
}

if __name__ == "__main__":
    words = iter(sys.argv[1:])
    given = [NamedModel(folder, kind, family or None) for kind, folder, family in zip(words, words, words, strict=True)]  # type: ignore[arg-type]
    print(json.dumps(misfits(given)))
