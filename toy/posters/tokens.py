"""The pieces of text that the poster models know: a token for each word, run of punctuation, and letter of a poster.

A letter keeps the quotes around its word and a word keeps the space before it, so that tokens spell text when they are
put together, and a label in JSON is short.
"""

import re
from itertools import product

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from toy.posters.prompts import prompt_of, words
from toy.posters.world import LETTERS, ROLES
from toy.world import COLOURS

PIECE = r""" ?"?[A-Z](?![a-z])"?|"[a-z_]+"| ?[A-Za-z_]+| ?[0-9]+|[^A-Za-z0-9"]+|."""


def pieces(text: str) -> list[str]:
    """What a text is cut into."""
    return re.findall(PIECE, text)


def letters() -> list[str]:
    """The letters of posters, with all that may stand before and after them."""
    return ["".join(parts) for parts in product(("", '"', ' "'), LETTERS, ("", '"'))]


def captions() -> list[str]:
    """A caption of each colour and each set of roles, and a label of each: all words that they use."""
    known = words()
    every = [prompt_of("colour_title", {ROLES[0]: known[0]}, colour) for colour in COLOURS]
    for last in ROLES[2:]:
        roles = (*ROLES[:2], last)
        every += [prompt_of("three_lines", dict(zip(roles[:lines], known, strict=False))) for lines in (1, 2, 3)]
    return [text for prompt in every for text in (prompt["caption"], prompt["label"])]


def make_tokenizer(special: tuple[str, ...], texts: list[str]) -> Tokenizer:
    """A token for each special word, each letter, and each piece of the texts."""
    found = [piece for text in texts for piece in pieces(text)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys((*special, *letters(), *found)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
