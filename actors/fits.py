"""Whether the weights in local model folders fit their classes, asked in a process of its own, since the answer needs torch.

    python -m actors.fits PIPELINE VLM

Prints a line of JSON: what does not fit in the pipeline and in the VLM, null where all fits or "-" was given. Only headers are read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from actors.mistake import Mistake

NONE = "-"

Misfits = tuple[str | None, str | None]


def misfits(pipeline: Path | None, vlm: Path | None) -> Misfits:
    """What does not fit in folders that `check_pipeline` and `check_vlm` have passed."""
    from actors.process import quiet

    quiet()
    from actors.diffusion.family import family_class
    from actors.models.weights import check_pipeline_weights, check_vlm_weights
    from actors.vlm.family import vlm_class

    found: list[str | None] = [None, None]
    try:
        if pipeline:
            check_pipeline_weights(pipeline, family_class(pipeline).ignored_weights)
    except Mistake as error:
        found[0] = str(error)
    try:
        if vlm:
            check_vlm_weights(vlm, vlm_class(vlm).ignored_weights)
    except Mistake as error:
        found[1] = str(error)
    return found[0], found[1]


if __name__ == "__main__":
    given = [None if argument == NONE else Path(argument) for argument in sys.argv[1:3]]
    print(json.dumps(misfits(*given)))
