"""What a picture of the miniature world is: things on a 4 x 4 grid, how they are drawn, and how drawings go bad.

Axes: K images, H rows, W columns, C colour channels; R, C of a cell are its row and column.
"""

from typing import NamedTuple

import numpy as np

GRID = 4
CELL = 8  # pixels
SIZE = GRID * CELL
JITTER = 12  # RGB units, uniform, one draw per thing and channel

PALETTE = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 80, 235),
    "yellow": (235, 215, 40),
    "cyan": (40, 210, 220),
    "purple": (160, 60, 200),
    "white": (240, 240, 240),
}
DRAWINGS = {
    "circle": "..###.. .#####. ####### ####### ####### .#####. ..###..",
    "square": "####### ####### ####### ####### ####### ####### #######",
    "triangle": "...#... ...#... ..###.. ..###.. .#####. .#####. #######",
    "cross": "##...## ###.### .#####. ..###.. .#####. ###.### ##...##",
}
COLOURS = tuple(PALETTE)
SHAPES = tuple(DRAWINGS)


def mask_of(drawing: str, left: int = 0) -> np.ndarray:
    """A drawing as a bool mask [CELL, CELL], from a column on; the last row and column stay empty, so that neighbours do not touch."""
    rows = [[pixel == "#" for pixel in row] for row in drawing.split()]
    mask = np.zeros((CELL, CELL), dtype=bool)
    mask[: len(rows), left : left + len(rows[0])] = rows
    return mask


MASKS = {shape: mask_of(drawing) for shape, drawing in DRAWINGS.items()}


class Thing(NamedTuple):
    """One coloured shape in one cell of the grid."""

    colour: str
    shape: str
    row: int
    column: int


Scene = tuple[Thing, ...]


def place(kinds: list[tuple[str, str]], rng: np.random.Generator) -> Scene:
    """Puts (colour, shape) kinds into different cells, drawn uniformly."""
    cells = rng.permutation(GRID * GRID)[: len(kinds)]
    return tuple(Thing(*kind, *divmod(int(cell), GRID)) for kind, cell in zip(kinds, cells, strict=True))


def holds(first: Thing, relation: str, second: Thing) -> bool:
    """Whether `first` is `relation` (left of, right of, above, below) `second`; its axis must dominate the other."""
    right, down = first.column - second.column, first.row - second.row
    along, across = (right, down) if relation in ("left of", "right of") else (down, right)
    return abs(along) > abs(across) and (along > 0) == (relation in ("right of", "below"))


def render(scene: Scene, rng: np.random.Generator | None = None) -> np.ndarray:
    """Draws a scene on black: uint8 [SIZE, SIZE, 3]. The generator jitters the colours; without one they are exact."""
    canvas_HWC = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    for thing in scene:
        cell_of(canvas_HWC, thing.row, thing.column)[MASKS[thing.shape]] = paint_of(thing.colour, rng)
    return canvas_HWC


def degrade(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draws a scene as a weak generator would: uint8 [SIZE, SIZE, 3].

    Each thing stays the one that its caption names: it may be faint, have a part missing, or carry up to a third of
    another colour or shape. Faint ghosts of things, blur and noise come on top.
    """
    canvas_HWC = np.zeros((SIZE, SIZE, 3), dtype=np.float32)
    for thing in scene:
        cell_of(canvas_HWC, thing.row, thing.column)[...] += _spoiled(thing, rng)
    if rng.random() < 0.5:
        for thing in place(any_kinds(int(rng.integers(1, 4)), rng), rng):
            cell_of(canvas_HWC, thing.row, thing.column)[...] += rng.uniform(-0.25, 0.25) * _spoiled(thing, rng)
    return soften(canvas_HWC, rng)


def cell_of(canvas_HWC: np.ndarray, row: int, column: int) -> np.ndarray:
    """The view of a cell."""
    return canvas_HWC[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]


def paint_of(colour: str, rng: np.random.Generator | None) -> np.ndarray:
    """The RGB of a colour name, jittered."""
    jitter = 0 if rng is None else rng.integers(-JITTER, JITTER + 1, 3)
    return np.asarray(PALETTE[colour]) + jitter


def any_kinds(number: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`number` independent (colour, shape) kinds."""
    return [(COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]) for _ in range(number)]


def _spoiled(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """A badly drawn thing: float64 [CELL, CELL, 3]."""
    paint = paint_of(thing.colour, rng) + rng.normal(0.0, 10.0, 3)
    other_colour, other_shape = any_kinds(1, rng)[0]
    return spoiled(MASKS[thing.shape], paint, MASKS[other_shape], np.asarray(PALETTE[other_colour]), rng)


def spoiled(
    mask: np.ndarray, paint: np.ndarray, other_mask: np.ndarray, other_paint: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """What fills a cell, badly drawn, perhaps with up to a third of another mask or paint: float64 [CELL, CELL, 3]."""
    mask = mask.astype(np.float64)
    if rng.random() < 0.3:
        weight = rng.uniform(0.0, 0.35)
        mask = (1 - weight) * mask + weight * other_mask
    if rng.random() < 0.3:
        weight = rng.uniform(0.0, 0.35)
        paint = (1 - weight) * paint + weight * other_paint
    if rng.random() < 0.2:
        axis_slice = slice(0, 2) if rng.random() < 0.5 else slice(CELL - 3, CELL)
        mask[axis_slice if rng.random() < 0.5 else (slice(None), axis_slice)] = 0.0
    if rng.random() < 0.4:
        mask = mask * rng.uniform(0.5, 1.0)
    return mask[..., None] * paint


def soften(canvas_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, another brightness and noise on float32 [H, W, 3]: uint8."""
    if rng.random() < 0.4:
        canvas_HWC = _blur(canvas_HWC, rng.uniform(0.0, 0.7))
    canvas_HWC *= rng.uniform(0.75, 1.1)
    canvas_HWC += rng.normal(0.0, rng.uniform(0.0, 20.0), canvas_HWC.shape)
    return canvas_HWC.clip(0, 255).astype(np.uint8)


def _blur(image_HWC: np.ndarray, weight: float) -> np.ndarray:
    """Mixes an image with its 3 x 3 box mean."""
    padded = np.pad(image_HWC, ((1, 1), (1, 1), (0, 0)))
    box = sum(padded[y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)) / 9
    return (1 - weight) * image_HWC + weight * box
