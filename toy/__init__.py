"""A miniature world in which text-to-image RL can be watched: a renderer, prompts, an exact checker, tiny models."""
