"""The exact checker: reads the things off an image and compares them with a prompt. No reward sees what it says.

Axes: K images, H rows, W columns, C colour channels, N cells of the grid, P palette entries (black first).
"""

from collections import Counter

import numpy as np

from toy.world import CELL, COLOURS, GRID, MASKS, PALETTE, SHAPES, Thing, holds

TONES_PC = np.array([(0, 0, 0), *PALETTE.values()], dtype=np.float32)
MASKS_SHW = np.stack([MASKS[shape] for shape in SHAPES])
FEWEST_PIXELS = 6  # below this a cell is empty
SAME_COLOUR = 0.75  # share of a thing's pixels that must agree on its colour
SAME_SHAPE = 0.8  # intersection over union with the nearest shape
GHOST_DISTANCE = 40.0  # RGB units from every palette colour; jitter stays below 21
GHOST_PIXELS = 8


def check(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """Scores images of one prompt.

    Args: images_KHWC uint8 [K, 32, 32, 3]; prompt with `objects` and `relation`.
    Returns: K floats each of "accuracy", 1.0 where the image shows exactly the prompt's things in its relation, nothing
    else; "ghost", 1.0 where at least GHOST_PIXELS pixels are of no colour of the palette (half-drawn things).
    """
    tones_KHW, distances_KHW = quantise(images_KHWC)
    scenes = [_read(tones_HW) for tones_HW in tones_KHW]
    return {
        "accuracy": [float(scene is not None and _agrees(scene, prompt)) for scene in scenes],
        "ghost": ghosts(distances_KHW),
    }


def ghosts(distances_KHW: np.ndarray) -> list[float]:
    """1.0 for each image with at least GHOST_PIXELS pixels of no colour of the palette."""
    return ((distances_KHW > GHOST_DISTANCE).sum(axis=(1, 2)) >= GHOST_PIXELS).astype(float).tolist()


def read_scene(image_HWC: np.ndarray) -> tuple[Thing, ...] | None:
    """The things of an image, or None where something is not a thing of this world."""
    return _read(quantise(image_HWC[None])[0][0])


def quantise(images_KHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest palette entry of each pixel, int [K, H, W], and its distance in RGB units."""
    squares_KHWP = ((images_KHWC[..., None, :].astype(np.float32) - TONES_PC) ** 2).sum(-1)
    nearest = squares_KHWP.argmin(-1)
    return nearest, np.sqrt(np.take_along_axis(squares_KHWP, nearest[..., None], -1)[..., 0])


def cells_of(tones_HW: np.ndarray) -> np.ndarray:
    """Palette entries by cell: [N, CELL, CELL]."""
    return tones_HW.reshape(GRID, CELL, GRID, CELL).swapaxes(1, 2).reshape(GRID * GRID, CELL, CELL)


def _read(tones_HW: np.ndarray) -> tuple[Thing, ...] | None:
    """Cell by cell: the things, or None where a cell holds neither nothing nor a thing."""
    cells_NHW = cells_of(tones_HW)
    found = []
    for index in np.flatnonzero((cells_NHW > 0).sum(axis=(1, 2)) >= FEWEST_PIXELS):
        kind = _kind(cells_NHW[index])
        if kind is None:
            return None
        found.append(Thing(*kind, *divmod(int(index), GRID)))
    return tuple(found)


def _kind(cell_HW: np.ndarray) -> tuple[str, str] | None:
    """The (colour, shape) of an occupied cell, or None where either is unclear."""
    filled_HW = cell_HW > 0
    votes = np.bincount(cell_HW[filled_HW], minlength=len(TONES_PC))
    overlap_S = (MASKS_SHW & filled_HW).sum(axis=(1, 2)) / (MASKS_SHW | filled_HW).sum(axis=(1, 2))
    if votes.max() < SAME_COLOUR * filled_HW.sum() or overlap_S.max() < SAME_SHAPE:
        return None
    return COLOURS[votes.argmax() - 1], SHAPES[overlap_S.argmax()]


def _agrees(scene: tuple[Thing, ...], prompt: dict) -> bool:
    """Whether the things are exactly those that the prompt names, in its relation."""
    coloured = any(named["colour"] for named in prompt["objects"])
    seen = Counter((thing.colour if coloured else None, thing.shape) for thing in scene)
    wanted: Counter = Counter()
    for named in prompt["objects"]:
        wanted[named["colour"], named["shape"]] += named["count"]
    return seen == wanted and (prompt["relation"] is None or _related(scene, prompt))


def _related(scene: tuple[Thing, ...], prompt: dict) -> bool:
    """Whether the first named thing stands in the prompt's relation to the second."""
    first = (prompt["objects"][0]["colour"], prompt["objects"][0]["shape"])
    subject, other = scene if (scene[0].colour, scene[0].shape) == first else scene[::-1]
    return holds(subject, prompt["relation"], other)
