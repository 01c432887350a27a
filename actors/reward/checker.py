"""The held-out checker: a function of the user's that looks at images, whose figures are shown and never trained on. No torch."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.messages import Prompt, ScoreTrial
from actors.mistake import Mistake

if TYPE_CHECKING:
    import numpy as np


class Checker:
    """The function "module:function", called with (images_KHWC, {"id", "caption", "category", and the prompt's other fields}).

    It returns K floats by name. `trial` is tried at once. Raises Mistake for what can be neither loaded nor used.
    """

    def __init__(self, name: str, trial: ScoreTrial | None = None) -> None:
        from actors.reward.trial import try_checker

        self.name, self.function = name, find_checker(name)
        if trial:
            try_checker(self.function, name, trial)

    def check(self, prompt: Prompt, images_KHWC: np.ndarray) -> dict[str, list[float]]:
        """What it says of each image. Raises ValueError for anything but K finite numbers a figure."""
        from actors.reward.trial import fields_of, problem_of

        found = self.function(images_KHWC, fields_of(prompt))
        if problem := problem_of(found, len(images_KHWC)):
            raise ValueError(f"heldout.checker = {self.name!r} {problem}")
        return {name: [float(value) for value in values] for name, values in found.items()}


def find_checker(name: str) -> Callable[[np.ndarray, dict], dict[str, list[float]]]:
    """The function "module:function". Raises Mistake if there is none, or if its module does not load."""
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:  # a module may raise anything while it is imported
        raise Mistake(f"heldout.checker = {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise Mistake(f"heldout.checker = {name!r} is no function, but {found!r:.100}")
    return found
