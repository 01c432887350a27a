"""PromptEcho's group scorer against the obvious way: images per second and peak memory, side by side in one run.

    python -m bench.reward [--quick] [--out DIR] [--device cpu|cuda] [--threads N] [--repeats N]
    python -m bench.reward --model DIR|qwen2.5-vl-7b|qwen3-vl-8b|qwen3-vl-32b [--tiny] [--tokens 300] [--size 1024] [--group 16]

The obvious way is what a short script does: one image per forward, inputs made by the model's own processor, the model's own
loss with full logits. Both ways begin with uint8 images and end with K rewards, which must agree. The first form compares small
models of many shapes, the second (bench/judge.py) measures one model: that of a folder, or a full-size one with random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from actors.device import pick_device, pick_dtype
from actors.messages import Prompt
from actors.process import Process, prepare
from actors.reward.kinds.promptecho import QUERY, PromptEchoOptions
from bench import judge
from bench.command import fill_in, finish, surroundings
from bench.hardware import MB, machine, peak_memory, take_turns
from bench.vlm_case import JUDGE, VlmCase

WORDS = "a red circle left of a blue square and a green triangle above a yellow circle".split()
# nats per token between the two ways: of 16 bits the obvious one has its logits rounded, a logit of 20 by up to 0.06
AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 0.06}


@dataclass(frozen=True)
class Case(VlmCase):
    """A group of `group` images and a caption of `tokens`."""

    group: int = 16

    @property
    def caption(self) -> str:
        """A caption of one token a word."""
        return " ".join(WORDS[i % len(WORDS)] for i in range(self.tokens))

    def images(self) -> np.ndarray:
        """Noise, uint8 [K, H, W, 3]."""
        return self.noise(self.group)


def speed_cases(quick: bool) -> list[Case]:
    """The toy judge (its shape, where it has not been trained) and a real vocabulary, each with a short and a long caption."""
    judge = Case("toy judge", 20, vocab_size=50, model=str(JUDGE))
    if not JUDGE.is_dir():
        judge = Case("toy judge's shape", 20)
    real = Case("150k words", 20, vocab_size=150_000, layers=2, image_size=128)
    if quick:
        return [replace(judge, group=4), replace(real, name="20k words", group=2, vocab_size=20_000)]
    return [judge, replace(judge, tokens=300), real, replace(real, tokens=300)]


def memory_cases(quick: bool) -> list[Case]:
    """One model and caption under a growing vocabulary."""
    sizes = (10_000, 20_000) if quick else (25_000, 50_000, 100_000, 150_000)
    base = Case("", 40 if quick else 300, group=2 if quick else 16, layers=2, image_size=64)
    return [replace(base, name=f"{size // 1000}k words", vocab_size=size) for size in sizes]


class Obvious:
    """One image per forward, the model's own loss with full logits."""

    def __init__(self, folder: Path, device: str) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype_on(device)).to(device).eval()
        self.processor = LlavaProcessor.from_pretrained(folder)
        content = [{"type": "image"}, {"type": "text", "text": QUERY}]
        chat = [{"role": "user", "content": content}]
        self.chat = self.processor.apply_chat_template(chat, add_generation_prompt=True)

    @torch.inference_mode()
    def score(self, images_KHWC: np.ndarray, caption: str) -> list[float]:
        """Minus the model's loss for each image."""
        num_labels = len(self.processor.tokenizer(caption, add_special_tokens=False).input_ids)
        rewards = []
        for image_HWC in images_KHWC:
            inputs = self.processor(images=Image.fromarray(image_HWC), text=self.chat + caption, return_tensors="pt")
            inputs = inputs.to(self.model.device, self.model.dtype)
            labels = inputs.input_ids.clone()
            labels[:, :-num_labels] = -100
            rewards.append(-self.model(**inputs, labels=labels).loss.item())
        return rewards


class Echo:
    """The group scorer."""

    def __init__(self, folder: Path, device: str) -> None:
        self.reward = PromptEchoOptions(model=str(folder)).on(device).load()

    def score(self, images_KHWC: np.ndarray, caption: str) -> list[float]:
        """The rewards of the group."""
        return list(self.reward.score(images_KHWC, Prompt("0", caption)).rewards_K)

    def forward(self, images_KHWC: np.ndarray, caption: str) -> Callable[[], float]:
        """The part that cannot be saved: the VLM's forward pass over the group, without its head, on inputs already made."""
        batch = self.reward.vlm.batch(images_KHWC, QUERY, caption, False)
        return lambda: self.reward.vlm.states(batch)[-1, -1, -1].item()


def dtype_on(device: str) -> torch.dtype:
    """Of both ways: the one that reward workers take by themselves."""
    return pick_dtype("auto", torch.device(device))


WAYS: dict[str, Callable[[Path, str], Obvious | Echo]] = {"obvious": Obvious, "echo": Echo}


def measure_speed(case: Case, folder: Path, device: str, repeats: int) -> dict[str, Any]:
    """Median seconds per group of both ways and of the forward alone, interleaved, and what follows from them."""
    obvious, echo, images = Obvious(folder, device), Echo(folder, device), case.images()
    difference = np.abs(np.subtract(obvious.score(images, case.caption), echo.score(images, case.caption))).max()
    if not difference < AGREEMENT[dtype_on(device)]:
        raise RuntimeError(f"the two ways disagree by {difference} nats per token on {case}")
    turns: dict[str, Callable[[], Any]] = {
        "obvious": lambda: obvious.score(images, case.caption),
        "echo": lambda: echo.score(images, case.caption),
        "forward": echo.forward(images, case.caption),
    }
    seconds = take_turns(turns, repeats, device)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = [a / b for a, b in zip(seconds["obvious"], seconds["echo"], strict=True)]
    return {
        "images_per_s": {way: case.group / medians[way] for way in WAYS},
        "ratio": medians["obvious"] / medians["echo"],
        "ratio_range": [min(pairs), max(pairs)],
        "ratio_of_forward_alone": medians["obvious"] / medians["forward"],
        "gflop": {way: count_gflop(turns[way]) for way in WAYS},
        "difference": float(difference),
    }


def count_gflop(turn: Callable[[], Any]) -> float:
    """10^9 multiplications and additions in one group's matrix products; those inside of attention are not counted on a CPU."""
    with FlopCounterMode(display=False) as counter:
        turn()
    return counter.get_total_flops() / 1e9


def measure_memory(case: Case, folder: Path, device: str) -> dict[str, float]:
    """MB that scoring a group takes at its peak beyond the loaded model, by way, each in a process of its own."""
    command = [sys.executable, "-m", "bench.reward", "--device", device, "--folder", str(folder)]
    command += ["--case", json.dumps(asdict(case)), "--memory-of"]
    outputs = {way: subprocess.run([*command, way], check=True, stdout=subprocess.PIPE, text=True) for way in WAYS}
    return {way: float(output.stdout.splitlines()[-1]) for way, output in outputs.items()}


def memory_here(case: Case, folder: Path, device: str, way: str) -> float:
    """See `measure_memory`; call it once in a process."""
    scorer, images = WAYS[way](folder, device), case.images()
    scorer.score(images[:1], WORDS[1])  # what the libraries take once is not the group's
    with peak_memory(device) as peak:
        scorer.score(images, case.caption)
    return peak.mb


def run(quick: bool, device: str, repeats: int) -> dict[str, Any]:
    """All rows of both tables."""
    speed, memory = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for case in track(speed_cases(quick), "speed"):
            folder = case.folder(Path(temporary))
            speed.append({**asdict(case), **measure_speed(case, folder, device, repeats)})
            memory.append({**asdict(case), "peak_mb": measure_memory(case, folder, device)})
        for case in track(memory_cases(quick), "memory"):
            memory.append({**asdict(case), "peak_mb": measure_memory(case, case.folder(Path(temporary)), device)})
    return {"machine": machine(device), "quick": quick, "repeats": repeats, "speed": speed, "memory": memory}


def speed_table(rows: list[dict[str, Any]]) -> Table:
    """A line per VLM and caption."""
    columns = ("VLM", "tokens", "group", "images/s\nobvious", "images/s\necho", "ratio", "(of pairs)", "forward\nalone",
               "GFLOP\nobvious", "GFLOP\necho")  # fmt: skip
    table = Table(*columns, title="The group scorer against the obvious way")
    for row in rows:
        rates, (low, high) = row["images_per_s"], row["ratio_range"]
        table.add_row(
            row["name"], str(row["tokens"]), str(row["group"]), f"{rates['obvious']:.1f}", f"{rates['echo']:.1f}",
            f"[bold]{row['ratio']:.2f}[/]", f"{low:.1f}-{high:.1f}", f"{row['ratio_of_forward_alone']:.1f}",
            f"{row['gflop']['obvious']:.1f}", f"{row['gflop']['echo']:.1f}",
        )  # fmt: skip
    return table


def memory_table(rows: list[dict[str, Any]]) -> Table:
    """A line per VLM and caption."""
    columns = ("VLM", "tokens", "group", "peak MB\nobvious", "peak MB\necho", "MB of the group's\nfloat32 logits")
    table = Table(*columns, title="Peak memory beyond the loaded model")
    for row in rows:
        peaks = [f"{row['peak_mb'][way]:.0f}" for way in WAYS]
        logits = row["group"] * row["tokens"] * row["vocab_size"] * 4 / MB
        table.add_row(row["name"], str(row["tokens"]), str(row["group"]), *peaks, f"{logits:.0f}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.reward", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for reward.json (runs/bench)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU (1)")
    parser.add_argument("--repeats", type=int, help="turns per row (2 with --quick, else 7)")
    for internal in ("--memory-of", "--case", "--folder"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    judge.options_of(parser)
    options = parser.parse_args(arguments)
    prepare(Process(options.threads))
    device = pick_device(options.device)
    if options.memory_of:
        print(memory_here(Case(**json.loads(options.case)), Path(options.folder), device.type, options.memory_of))
    elif options.model:
        report_model(options, device)
    else:
        report_shapes(options, device.type)


def report_shapes(options: argparse.Namespace, device: str) -> None:
    """Both tables of small models."""
    results = run(options.quick, device, options.repeats or (2 if options.quick else 7))
    console = Console(width=max(100, Console().width))
    console.print(speed_table(results["speed"]), memory_table(results["memory"]), results["machine"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "reward.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out / 'reward.json'}")


def report_model(options: argparse.Namespace, device: torch.device) -> None:
    """The table of one model."""
    dtype = pick_dtype("auto", device)
    options.repeats = options.repeats or (2 if options.tiny else 5)
    fill_in(options, judge.TINY if options.tiny else judge.USUAL)
    asked = {name: getattr(options, name) for name in ("model", "tiny", "tokens", "size", "group")}
    around = surroundings(device, dtype)
    results = around | asked | judge.measure(options, device, dtype, around["peak_flop_per_s"])
    finish(results, [judge.table(results)], options.out / f"reward_{Path(options.model).name}.json")


if __name__ == "__main__":
    main()
