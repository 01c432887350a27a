"""What a worker that draws tries when it starts, so that what cannot be drawn is told before the run begins: an image, and LoRAs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from actors.diffusion.family import Family
from actors.diffusion.foreign_lora import as_adapter
from actors.diffusion.trial import not_finite, try_network
from actors.messages import Adapter, DrawTrial
from actors.mistake import Mistake
from actors.rollout.generate import Generator
from actors.rollout.options import LoraFiles


def try_out(family: Family, trial: DrawTrial) -> None:
    """Draws and decodes an image as a task does, but in one step; it leaves nothing behind. Raises Mistake as `try_network`."""
    try:
        family.decode(try_network(family, trial))
    except FloatingPointError as error:
        raise not_finite(trial, "VAE gives") from error


def try_adapter(generator: Generator, lora: LoraFiles) -> Adapter:
    """Opens a LoRA and proves that it reaches the images; the model is the base afterwards. Raises Mistake if it does not."""
    with TemporaryDirectory() as folder:
        for name, content in lora.files.items():
            Path(folder, name).write_bytes(content)
        try:
            adapter = as_adapter(generator.family.pipeline, Path(folder, lora.weights))
            generator.merger.load(adapter)
        except ValueError as error:
            raise Mistake(f"{lora.said}: {error}") from error
    generator.merger.unload()
    return adapter
