"""The exact checker of posters: reads words and colours off an image, compares with a prompt. No reward sees what it says.

Axes: K images, H rows, W columns, C colour channels, N cells of the grid, L letters.
"""

from typing import NamedTuple

import numpy as np

from toy.checker import FEWEST_PIXELS, SAME_COLOUR, SAME_SHAPE, TONES_PC, cells_of, ghosts, quantise
from toy.posters.prompts import texts_of
from toy.posters.world import GLYPHS, LETTERS, ROLES
from toy.world import COLOURS, GRID

GLYPHS_LHW = np.stack([GLYPHS[letter] for letter in LETTERS])
UNCLEAR = "?"


class Row(NamedTuple):
    """What stands in a row: a character for each cell, a blank where it is empty; the colours of its letters."""

    text: str
    colours: frozenset[str]


def check(images_KHWC: np.ndarray, prompt: dict) -> dict[str, list[float]]:
    """Scores images of one prompt.

    Args: images_KHWC uint8 [K, 32, 32, 3]; prompt with `label` and `title_colour`.
    Returns: K floats each of "accuracy", 1.0 where each role's row reads exactly as the label says, all other rows are
    empty, and the title has the prompt's colour, if it names one; "letters", the share of cells that are right, of those
    that hold a letter or should; "ghost", see `toy.checker`.
    """
    tones_KHW, distances_KHW = quantise(images_KHWC)
    posters = [_read(tones_HW) for tones_HW in tones_KHW]
    return {
        "accuracy": [float(_agrees(rows, prompt)) for rows in posters],
        "letters": [_share_right(rows, prompt) for rows in posters],
        "ghost": ghosts(distances_KHW),
    }


def read_texts(image_HWC: np.ndarray) -> dict[str, str]:
    """The text of each role that has one, "?" for what is no letter."""
    rows = _read(quantise(image_HWC[None])[0][0])
    return {role: row.text.rstrip() for role, row in zip(ROLES, rows, strict=True) if row.text.strip()}


def _read(tones_HW: np.ndarray) -> list[Row]:
    cells = [_letter(cell_HW) for cell_HW in cells_of(tones_HW)]
    rows = [cells[start : start + GRID] for start in range(0, GRID * GRID, GRID)]
    return [
        Row("".join(letter for letter, _ in row), frozenset(colour for letter, colour in row if letter != " "))
        for row in rows
    ]


def _letter(cell_HW: np.ndarray) -> tuple[str, str]:
    """The letter of a cell, a blank or UNCLEAR, and its colour, "" or UNCLEAR."""
    filled_HW = cell_HW > 0
    if filled_HW.sum() < FEWEST_PIXELS:
        return " ", ""
    votes = np.bincount(cell_HW[filled_HW], minlength=len(TONES_PC))
    overlap_L = (GLYPHS_LHW & filled_HW).sum(axis=(1, 2)) / (GLYPHS_LHW | filled_HW).sum(axis=(1, 2))
    colour = COLOURS[votes.argmax() - 1] if votes.max() >= SAME_COLOUR * filled_HW.sum() else UNCLEAR
    return LETTERS[overlap_L.argmax()] if overlap_L.max() >= SAME_SHAPE else UNCLEAR, colour


def _wanted(prompt: dict) -> list[str]:
    """The text of each row, with blanks up to its end."""
    texts = texts_of(prompt)
    return [texts.get(role, "").ljust(GRID) for role in ROLES]


def _agrees(rows: list[Row], prompt: dict) -> bool:
    title_colour = prompt["title_colour"]
    return [row.text for row in rows] == _wanted(prompt) and (not title_colour or rows[0].colours == {title_colour})


def _share_right(rows: list[Row], prompt: dict) -> float:
    pairs = list(zip("".join(row.text for row in rows), "".join(_wanted(prompt)), strict=True))
    told = [seen == wanted for seen, wanted in pairs if seen != " " or wanted != " "]
    return float(np.mean(told))
