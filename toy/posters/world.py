"""What a poster is: a word of a bitmap font in each of up to four rows, how it is drawn, and how drawings go bad.

Axes: H rows, W columns, C colour channels.
"""

from typing import NamedTuple

import numpy as np

from toy.world import COLOURS, GRID, PALETTE, SIZE, cell_of, mask_of, paint_of, soften, spoiled

ROLES = ("main_title", "subtitle", "selling_points", "other_text")  # of the rows, from the top
FONT = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "O": ".###. #...# #...# #...# #...# #...# .###.",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
}
LETTERS = tuple(FONT)


GLYPHS = {letter: mask_of(glyph, left=1) for letter, glyph in FONT.items()}


class Line(NamedTuple):
    """A word in one colour, from the left edge of the row of its role."""

    role: str
    word: str
    colour: str


Poster = tuple[Line, ...]


def render(poster: Poster, rng: np.random.Generator | None = None) -> np.ndarray:
    """Draws a poster on black: uint8 [SIZE, SIZE, 3]. The generator jitters the colours; without one they are exact."""
    canvas_HWC = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    for line in poster:
        paint = paint_of(line.colour, rng)
        for column, letter in enumerate(line.word):
            cell_of(canvas_HWC, ROLES.index(line.role), column)[GLYPHS[letter]] = paint
    return canvas_HWC


def degrade(poster: Poster, rng: np.random.Generator) -> np.ndarray:
    """Draws a poster as a weak generator would, with faint ghosts of letters elsewhere: uint8 [SIZE, SIZE, 3].

    Each letter stays the one that it is (see `toy.world.spoiled`).
    """
    canvas_HWC = np.zeros((SIZE, SIZE, 3), dtype=np.float32)
    for line in poster:
        for column, letter in enumerate(line.word):
            cell_of(canvas_HWC, ROLES.index(line.role), column)[...] += _spoiled(letter, line.colour, rng)
    if rng.random() < 0.5:
        for cell in rng.permutation(GRID * GRID)[: rng.integers(1, 4)]:
            ghost = _spoiled(*_any_letter(rng), rng)
            cell_of(canvas_HWC, *divmod(int(cell), GRID))[...] += rng.uniform(-0.25, 0.25) * ghost
    return soften(canvas_HWC, rng)


def crowded(number: int, rng: np.random.Generator) -> np.ndarray:
    """Letters of any colours in any cells: uint8 [number, SIZE, SIZE, 3]. They teach an autoencoder more than posters do."""
    canvases_BHWC = np.zeros((number, SIZE, SIZE, 3), dtype=np.uint8)
    for canvas_HWC in canvases_BHWC:
        for cell in rng.permutation(GRID * GRID)[: rng.integers(1, GRID * GRID)]:
            letter, colour = _any_letter(rng)
            cell_of(canvas_HWC, *divmod(int(cell), GRID))[GLYPHS[letter]] = paint_of(colour, rng)
    return canvases_BHWC


def _any_letter(rng: np.random.Generator) -> tuple[str, str]:
    return LETTERS[rng.integers(len(LETTERS))], COLOURS[rng.integers(len(COLOURS))]


def _spoiled(letter: str, colour: str, rng: np.random.Generator) -> np.ndarray:
    """A badly drawn letter: float64 [CELL, CELL, 3]."""
    other_letter, other_colour = _any_letter(rng)
    return spoiled(GLYPHS[letter], paint_of(colour, rng), GLYPHS[other_letter], np.asarray(PALETTE[other_colour]), rng)
