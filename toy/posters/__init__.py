"""Posters: the part of the miniature world that bears text. A font, prompts with words, an exact checker, tiny models."""
