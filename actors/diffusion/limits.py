"""How much an image model takes at once, and how long a caption may be. The doctor reads the same numbers: loads no torch."""

from __future__ import annotations

CACHED_CAPTIONS = 256  # kept encoded on the device
PIXELS_AT_ONCE = 2**19  # decoded by the VAE in one call: two images of 512 x 512; a larger image goes alone
UNTILED_PIXELS = 2**22  # the largest image that the VAE decodes as a whole: 2048 x 2048
JOINT_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
