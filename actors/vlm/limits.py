"""How much of a group goes through a VLM at once. The doctor reads the same numbers: loads no torch."""

from __future__ import annotations

# Tokens in one forward pass. On a CPU so few that the activations stay in its cache. On a GPU so many that a group of 16 images
# of 1024 px with 300 tokens is one pass of Qwen3-VL (16 x 2,400), and so few that any pass fits beside the 32B model in 80 GB:
# there a token takes 175 kB and a patch 50 kB at the widest place (live tensors of a layer, counted; not yet run on a GPU).
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 3 * 2**14}
PATCHES_PER_TOKEN = (
    4  # what a patch takes, to a token: vision towers are so much narrower than the language models behind them
)
# Logits that exist at once: 2 MiB, which stay in a CPU's cache, or 512 MiB, which fill a GPU (not yet tuned on one).
LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**27}
CHUNK_TOKENS = 4096  # rows of logits, unless a recipe says otherwise
CPU_CHUNK_TOKENS = 512  # the most of them on a CPU
IMAGES_AT_ONCE = {"cpu": 8, "cuda": 256}  # through CLIP or SigLIP; not yet tuned on a GPU
