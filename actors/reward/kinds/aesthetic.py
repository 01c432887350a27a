"""Aesthetic score: a linear head on a CLIP model's embedding of an image, whatever its caption."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from actors.messages import Prompt, Scores
from actors.mistake import Mistake
from actors.options import File
from actors.reward.options import DualEncoderOptions

if TYPE_CHECKING:
    from torch import Tensor


class AestheticOptions(DualEncoderOptions):
    """A linear head on a CLIP embedding of the image (docs/rewards/aesthetic.md)."""

    reads_caption: ClassVar[bool] = False

    type: Literal["aesthetic"] = "aesthetic"
    head: File
    """The head's file: a state dict of linear layers, as safetensors."""

    def load(self) -> Aesthetic:
        """See `RewardOptions.load`."""
        return Aesthetic(self)


class Aesthetic:
    """R(X) = w f(X) + b, f(X) the unit vector of the image; w and b are the product of the head's linear layers.

    Source: LAION's aesthetic predictor (sac+logos+ava1-l14-linearMSE), an MLP without activations on CLIP-L/14: a linear map.
    """

    def __init__(self, options: AestheticOptions) -> None:
        self.encoder = options.load_encoder()
        weight_D, bias = read_head(Path(options.head))
        if len(weight_D) != (width := self.encoder.width):
            raise Mistake(
                f"reward.head = {options.head!r} reads embeddings of {len(weight_D)} numbers, but reward.model = {options.model!r} "
                f"gives {width}: take the head that was trained for this model"
            )
        self.weight_D, self.bias = weight_D.to(self.encoder.device), bias
        self.device, self.dtype = str(self.encoder.device), self.encoder.dtype

    def score(self, images_KHWC: np.ndarray, prompt: Prompt) -> Scores:
        """See `Reward.score`."""
        start = time.perf_counter()
        scores_K = self.encoder.images(images_KHWC).double() @ self.weight_D + self.bias
        return Scores(tuple(scores_K.tolist()), seconds=time.perf_counter() - start)


def read_head(file: Path) -> tuple[Tensor, float]:
    """One linear map of a chain of linear layers, in their order: weight float64 [D] and bias. Raises Mistake for anything else."""
    import torch

    named = _tensors(file)
    names = sorted((name for name in named if name.endswith("weight")), key=_in_order)
    if not names or set(named) - {*names, *(_bias_of(name) for name in names)}:
        raise Mistake(
            f"reward.head = '{file}' holds {', '.join(named) or 'nothing'}: linear layers are expected, weight and bias"
        )
    weight_DD, bias_D = None, torch.zeros(0, dtype=torch.float64)
    for name in names:
        layer_OI = torch.atleast_2d(named[name].double())
        own_O = torch.atleast_1d(named.get(_bias_of(name), torch.zeros(len(layer_OI))).double())
        if layer_OI.dim() != 2 or (weight_DD is not None and layer_OI.shape[1] != len(weight_DD)):
            raise Mistake(
                f"reward.head = '{file}': {name} of shape {list(layer_OI.shape)} does not follow the layer before"
            )
        if own_O.shape != layer_OI.shape[:1]:
            raise Mistake(
                f"reward.head = '{file}': {_bias_of(name)} has the shape {list(own_O.shape)}: it does not fit {name}"
            )
        bias_D = own_O if weight_DD is None else layer_OI @ bias_D + own_O
        weight_DD = layer_OI if weight_DD is None else layer_OI @ weight_DD
    if weight_DD is None or len(weight_DD) != 1:
        raise Mistake(
            f"reward.head = '{file}' gives {0 if weight_DD is None else len(weight_DD)} numbers an image: one is expected"
        )
    return weight_DD[0], float(bias_D)


def _tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise Mistake(
            f"reward.head = '{file}' cannot be read as safetensors ({error}); docs/rewards/aesthetic.md has a line that converts a .pth"
        ) from error


def _bias_of(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def _in_order(name: str) -> list[int]:
    """layers.10 after layers.2."""
    return [int(number) for number in re.findall(r"\d+", name)]
