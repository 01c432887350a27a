"""Whether a model can be at a path: before anything is loaded and without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from actors.models.kinds import Kind
from actors.paths import ROOT

VLM_MARKER = "config.json"  # what transformers' save_pretrained leaves in a model's folder
PIPELINE_MARKER = "model_index.json"  # what diffusers' save_pretrained leaves in a pipeline's folder
MARKERS: dict[Kind, str] = {"pipeline": PIPELINE_MARKER, "vlm": VLM_MARKER, "dual_encoder": VLM_MARKER}

_WHAT_A_FOLDER_HOLDS = {
    VLM_MARKER: "a transformers model's folder holds config.json, model.safetensors and tokenizer.json",
    PIPELINE_MARKER: "a diffusers pipeline's folder holds model_index.json and a folder per component",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_model(path: str, marker: str) -> None:
    """Passes if `path` is a folder that holds the file `marker`, or may be a hub name such as "Qwen/Qwen3-VL-8B-Instruct".

    A hub name has one slash and no local folder before it ("toy/judge" is a local path where a folder toy stands).
    Whether the hub knows the name is left to the loading.
    Raises ValueError that names the path, what a model's folder holds and what to do. (os.path's functions, unlike Path's, raise
    nothing for a name that is too long.)
    """
    if path and os.path.isfile(os.path.join(path, marker)):
        return
    if path and os.path.isfile(os.path.join(path, "adapter_config.json")):
        problem = f"the folder {path} holds an adapter alone: merge it into its base model (peft: merge_and_unload), and save that"
    elif path and os.path.isdir(path):
        problem = f"the folder {path} holds no {marker}"
    elif os.path.isfile(path):
        problem = f"{path} is a file, not a folder"
    elif _HUB_NAME.fullmatch(path) and not os.path.isdir(os.path.dirname(path)):
        return
    else:
        problem = f"there is no folder {path!r}, and it is no hub name of the form owner/name"
    holds = _WHAT_A_FOLDER_HOLDS.get(marker, f"a model's folder holds {marker}")
    raise ValueError(
        f"no model: {problem}; {holds}. Give the path of such a folder (relative to {Path.cwd()}, else to {ROOT}) or a hub name."
    )
