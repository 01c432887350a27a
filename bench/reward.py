"""PromptEcho's group scorer against the obvious way: images per second and peak memory, side by side in one run.

The obvious way is what a short script does: one image per forward, input made by the model's own processor, the model's own
loss with full logits. Both ways begin with uint8 images and end with K rewards, which must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from actors.messages import Prompt
from actors.process import prepare
from actors.reward.promptecho import QUERY, PromptEcho
from tests.tiny_models import make_tiny_llava

JUDGE = Path("toy/models/judge")
WORDS = "a red circle left of a blue square and a green triangle above a yellow circle".split()
MB = 2**20


@dataclass(frozen=True)
class Case:
    """One row: a VLM of this shape with random weights, or the one in `model`; a group of `group` images; a caption of `tokens`."""

    name: str
    tokens: int
    group: int = 16
    vocab_size: int = 512
    width: int = 128
    layers: int = 3
    image_size: int = 32
    model: str | None = None

    @property
    def caption(self) -> str:
        """A caption of one token a word."""
        return " ".join(WORDS[i % len(WORDS)] for i in range(self.tokens))


def cases(quick: bool) -> list[Case]:
    """The toy judge (its trained weights where they are) with short and long captions, and a real vocabulary."""
    judge = Case("toy judge", 20, model=str(JUDGE) if JUDGE.is_dir() else None)
    real = Case("150k vocabulary", 20, vocab_size=150_000, layers=2, image_size=128)
    if quick:
        return [replace(judge, group=4), replace(real, group=2, vocab_size=20_000, name="20k vocabulary")]
    return [judge, replace(judge, tokens=300), real, replace(real, tokens=300)]


def vocabulary_cases(quick: bool) -> list[Case]:
    """The same model and caption under growing vocabularies."""
    sizes = [10_000, 20_000] if quick else [25_000, 50_000, 100_000, 150_000]
    base = Case("", 40 if quick else 300, group=2 if quick else 16, layers=2, image_size=64)
    return [replace(base, name=f"{size // 1000}k vocabulary", vocab_size=size) for size in sizes]


def model_folder(case: Case, parent: Path) -> Path:
    """The case's model, made under `parent` unless it is there already."""
    if case.model:
        return Path(case.model)
    folder = parent / f"{case.vocab_size}-{case.width}-{case.layers}-{case.image_size}"
    if not folder.exists():
        shape = {"vocab_size": case.vocab_size, "width": case.width, "layers": case.layers}
        make_tiny_llava(folder, **shape, heads=4, image_size=case.image_size, patch_size=8)
    return folder


def draw(case: Case) -> np.ndarray:
    """The group's images: noise, uint8 [K, H, W, 3]."""
    shape = (case.group, case.image_size, case.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class Obvious:
    """One image per forward, the model's own loss with full logits."""

    def __init__(self, folder: Path, device: str) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.processor = LlavaProcessor.from_pretrained(folder)
        content = [{"type": "image"}, {"type": "text", "text": QUERY}]
        self.chat = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @torch.inference_mode()
    def score(self, images_KHWC: np.ndarray, caption: str) -> list[float]:
        """Minus the model's loss for each image."""
        num_labels = len(self.processor.tokenizer(caption, add_special_tokens=False).input_ids)
        rewards = []
        for image_HWC in images_KHWC:
            inputs = self.processor(images=Image.fromarray(image_HWC), text=self.chat + caption, return_tensors="pt")
            inputs = inputs.to(self.model.device)
            labels = inputs.input_ids.clone()
            labels[:, :-num_labels] = -100
            rewards.append(-self.model(**inputs, labels=labels).loss.item())
        return rewards


class Echo:
    """The group scorer; `forward_s` adds up what its VLM's forward passes took."""

    def __init__(self, folder: Path, device: str) -> None:
        self.reward = PromptEcho(str(folder), device=device)  # type: ignore[arg-type]
        self.forward_s = 0.0
        self.states, self.reward.vlm.states = self.reward.vlm.states, self._timed_states  # type: ignore[method-assign]

    def _timed_states(self, batch):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        states = self.states(batch)
        self.forward_s += time.perf_counter() - start
        return states

    def score(self, images_KHWC: np.ndarray, caption: str) -> list[float]:
        """The rewards of the group."""
        return list(self.reward.score(images_KHWC, Prompt("0", caption)).rewards_K)


WAYS: dict[str, Callable[[Path, str], Obvious | Echo]] = {"obvious": Obvious, "echo": Echo}


def measure_speed(case: Case, folder: Path, device: str, repeats: int) -> dict:
    """Seconds per group, both ways in turns: medians, their ratio, the ratios of the single pairs, and the largest disagreement."""
    obvious, echo, images = Obvious(folder, device), Echo(folder, device), draw(case)
    disagreement = np.abs(np.subtract(obvious.score(images, case.caption), echo.score(images, case.caption))).max()
    echo.forward_s = 0.0
    seconds: dict[str, list[float]] = {"obvious": [], "echo": []}
    for _ in range(repeats):
        for name, way in (("obvious", obvious), ("echo", echo)):
            start = time.perf_counter()
            way.score(images, case.caption)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = [a / b for a, b in zip(seconds["obvious"], seconds["echo"], strict=True)]
    return {
        "images_per_s": {name: case.group / median for name, median in medians.items()},
        "ratio": medians["obvious"] / medians["echo"],
        "ratio_range": [min(pairs), max(pairs)],
        "ratio_if_only_the_forward_were_left": medians["obvious"] / (echo.forward_s / repeats),
        "largest_disagreement": float(disagreement),
    }


def measure_memory(case: Case, folder: Path, device: str, way: str) -> float:
    """MB that scoring a group takes at its peak beyond the loaded model, in a process of its own."""
    command = [sys.executable, "-m", "bench.reward", "--memory-of", way, "--device", device]
    command += ["--case", json.dumps(asdict(case)), "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def memory_here(case: Case, folder: Path, device: str, way: str) -> float:
    """See `measure_memory`; call it once in a process."""
    scorer, images = WAYS[way](folder, device), draw(case)
    scorer.score(images[:1], WORDS[1])
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        scorer.score(images, case.caption)
        return (torch.cuda.max_memory_allocated() - before) / MB
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    scorer.score(images, case.caption)
    return (resident_bytes("VmHWM") - before) / MB


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def run(quick: bool, device: str, repeats: int) -> dict:
    """All rows."""
    rows, vocabularies = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases(quick):
            folder = model_folder(case, Path(temporary))
            memory = {way: measure_memory(case, folder, device, way) for way in WAYS}
            rows.append({**asdict(case), **measure_speed(case, folder, device, repeats), "peak_mb": memory})
        for case in vocabulary_cases(quick):
            folder = model_folder(case, Path(temporary))
            memory = {way: measure_memory(case, folder, device, way) for way in WAYS}
            full_logits = case.group * case.tokens * case.vocab_size * 4 / MB
            vocabularies.append({**asdict(case), "peak_mb": memory, "logits_of_the_group_mb": full_logits})
    return {"machine": machine(device), "quick": quick, "repeats": repeats, "speed": rows, "memory": vocabularies}


def machine(device: str) -> dict:
    """Where this was measured."""
    cpu = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    name = torch.cuda.get_device_name() if device == "cuda" else cpu or platform.processor()
    load = os.getloadavg()[0]
    return {"device": name, "threads": torch.get_num_threads(), "cpus": os.cpu_count(), "load": load, "torch": torch.__version__}


def show(results: dict, console: Console) -> None:
    """Both tables."""
    speed = Table("VLM", "tokens", "group", "obvious\nimages/s", "PromptEcho\nimages/s", "ratio\n(range)", "limit of\nratio",
                  "obvious\npeak MB", "PromptEcho\npeak MB", title="The group scorer against the obvious way")  # fmt: skip
    for row in results["speed"]:
        rates, (low, high), peak = row["images_per_s"], row["ratio_range"], row["peak_mb"]
        speed.add_row(
            row["name"], str(row["tokens"]), str(row["group"]), f"{rates['obvious']:.1f}", f"{rates['echo']:.1f}",
            f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})", f"{row['ratio_if_only_the_forward_were_left']:.2f}",
            f"{peak['obvious']:.0f}", f"{peak['echo']:.0f}",
        )  # fmt: skip
    memory = Table("VLM", "tokens", "group", "obvious\npeak MB", "PromptEcho\npeak MB", "float32 logits\nof the group, MB",
                   title="Peak memory and the vocabulary")  # fmt: skip
    for row in results["memory"]:
        peak = row["peak_mb"]
        memory.add_row(
            row["name"], str(row["tokens"]), str(row["group"]), f"{peak['obvious']:.0f}", f"{peak['echo']:.0f}",
            f"{row['logits_of_the_group_mb']:.0f}",
        )  # fmt: skip
    console.print(speed, memory, results["machine"])


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.reward", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small cases, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for reward.json (runs/bench)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU (1)")
    parser.add_argument("--repeats", type=int, help="pairs per row (2 with --quick, else 9)")
    for hidden in ("--memory-of", "--case", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    prepare(options.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    if options.memory_of:
        print(memory_here(Case(**json.loads(options.case)), Path(options.folder), device, options.memory_of))
        return
    results = run(options.quick, device, options.repeats or (2 if options.quick else 9))
    show(results, Console())
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "reward.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
