"""Prompts that a reward could not score, found before any worker starts: captions without a word, and labels that are not there."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.messages import Prompt
from actors.reward.options import RewardOptions
from pipelines.recipe.errors import UserError

NAMED = 5


def check_captions(reward: RewardOptions, prompts: Sequence[Prompt], heldout: Sequence[Prompt]) -> None:
    """Raises UserError for captions without a word: nothing visible, or nothing that a local judge's tokenizer knows."""
    file = Path(reward.judge).expanduser() / "tokenizer.json" if reward.reads_caption and reward.judge else None
    known = known_words(file) if file and file.is_file() else lambda captions: [True] * len(captions)
    for key, found in (("data.train", prompts), ("data.heldout", heldout)):
        words = known([prompt.caption for prompt in found])
        bare = [
            prompt.id for prompt, any_word in zip(found, words, strict=True) if not any_word or not seen(prompt.caption)
        ]
        if bare:
            raise UserError(
                f"{key}: the judge knows no word of {len(bare)} of its captions, so that they cannot be scored: "
                f"ids {', '.join(map(repr, bare[:NAMED]))}{' ...' if len(bare) > NAMED else ''}. Take them out, or write words"
            )


def check_prompts(reward: RewardOptions, prompts: Sequence[Prompt], heldout: Sequence[Prompt]) -> None:
    """Raises UserError for prompts of which the reward itself says that it cannot score them."""
    for key, found in (("data.train", prompts), ("data.heldout", heldout)):
        problems = {prompt.id: problem for prompt in found if (problem := reward.problem_of(prompt))}
        if problems:
            first, problem = next(iter(problems.items()))
            more = f", and {len(problems) - 1} more are like it" if len(problems) > 1 else ""
            raise UserError(f"{key}: {reward.in_words()} cannot score the prompt {first!r}: {problem}{more}")


def known_words(tokenizer_file: Path) -> Callable[[list[str]], list[bool]]:
    """Whether a tokenizer makes anything of each of some captions but unknown tokens. Raises UserError if its file cannot be read."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library's own, without a class
        raise UserError(f"{tokenizer_file} is no tokenizer: {error}. Download it again") from None
    unknown = tokenizer.token_to_id(json.loads(tokenizer.to_str())["model"].get("unk_token") or "")

    def known(captions: list[str]) -> list[bool]:
        encoded = tokenizer.encode_batch_fast(captions, add_special_tokens=False)
        return [any(token_id != unknown for token_id in tokens.ids) for tokens in encoded]

    return known


def seen(caption: str) -> bool:
    """Whether a caption has a character that can be seen: not only spaces, marks and controls (Unicode's categories Z, M and C)."""
    return any(unicodedata.category(character)[0] not in "ZMC" for character in caption)
