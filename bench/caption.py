"""A VLM that writes captions against transformers' own `generate`: tokens per second, side by side in one run.

    python -m bench.caption [--quick] [--out FILE.json] [--device cpu|cuda] [--threads N] [--repeats N]

Transformers' way is what a short script does: one image after the other, inputs made by the model's own processor. Both begin with
uint8 images and end with texts, which at temperature 0 must be the same to the byte. The writer has `rows` of them side by side.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from actors.device import pick_device, pick_dtype
from actors.messages import Turn, WriteRequest
from actors.process import Process, prepare
from actors.writer.local import LocalWriterOptions
from bench.hardware import machine, median_of_pairs, take_turns
from bench.vlm_case import JUDGE, VlmCase

QUERY = "Describe this image in detail."


@dataclass(frozen=True)
class Case(VlmCase):
    """`images` to be captioned in `tokens` at most, `rows` side by side."""

    images: int = 16
    rows: int = 8
    temperature: float = 0.0

    def pictures(self) -> list[np.ndarray]:
        """Noise, uint8 [H, W, 3]."""
        return list(self.noise(self.images))


def cases(quick: bool) -> list[Case]:
    """The toy judge, short and long; a wider model with a real vocabulary; and the same drawn with a temperature."""
    judge = Case("toy judge", 20, vocab_size=50, model=str(JUDGE))
    real = Case("150k words, 512 wide", 40, vocab_size=150_000, width=512, layers=4, image_size=128)
    if quick:
        return [replace(judge, images=8), replace(real, name="20k words", vocab_size=20_000, width=128, images=8)]
    long = replace(judge, tokens=200)
    return [judge, long, real, replace(long, temperature=0.9), replace(real, temperature=0.9)]


class Own:
    """Transformers' own `generate`, one image at a time."""

    def __init__(self, case: Case, folder: Path, device: str) -> None:
        dtype = pick_dtype("auto", torch.device(device))
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.processor, self.case = LlavaProcessor.from_pretrained(folder), case
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUERY}]}]
        self.chat = self.processor.apply_chat_template(chat, add_generation_prompt=True)

    @torch.inference_mode()
    def write(self, pictures: list[np.ndarray]) -> tuple[list[str], int]:
        """The texts, and how many tokens they have."""
        how: dict[str, Any] = {"do_sample": False}
        if self.case.temperature:
            how = {"do_sample": True, "temperature": self.case.temperature, "top_k": 0}
        texts, tokens = [], 0
        for picture in pictures:
            inputs = self.processor(images=Image.fromarray(picture), text=self.chat, return_tensors="pt")
            inputs = inputs.to(self.model.device, self.model.dtype)
            found = self.model.generate(**inputs, max_new_tokens=self.case.tokens, **how)
            ids = found[0, inputs.input_ids.shape[1] :]
            texts.append(self.processor.tokenizer.decode(ids, skip_special_tokens=True))
            tokens += int((ids != self.processor.tokenizer.eos_token_id).sum())
        return texts, tokens


class Ours:
    """The writer of this repository."""

    def __init__(self, case: Case, folder: Path, device: str) -> None:
        options = LocalWriterOptions(
            model=str(folder), temperature=case.temperature, max_tokens=case.tokens, rows=case.rows
        )
        self.writer = options.on(device).load()

    def write(self, pictures: list[np.ndarray]) -> tuple[list[str], int]:
        """The texts, and how many tokens they have."""
        requests = [WriteRequest((Turn("user", (number, QUERY)),), seed=number) for number in range(len(pictures))]
        written = self.writer.write(requests, pictures)
        return [one.text or "" for one in written], sum(one.tokens for one in written)


WAYS: dict[str, Callable[[Case, Path, str], Own | Ours]] = {"transformers": Own, "writer": Ours}


def measure(case: Case, folder: Path, device: str, repeats: int) -> dict[str, Any]:
    """Median tokens per second of both ways, interleaved. Raises RuntimeError if they write other texts at temperature 0."""
    ways, pictures = {name: way(case, folder, device) for name, way in WAYS.items()}, case.pictures()
    texts = {name: way.write(pictures)[0] for name, way in ways.items()}
    if not case.temperature and texts["transformers"] != texts["writer"]:
        raise RuntimeError(f"the two ways write other texts of {case}: {texts}")
    counts: dict[str, list[int]] = {name: [] for name in ways}

    def turn(name: str) -> Callable[[], None]:
        return lambda: counts[name].append(ways[name].write(pictures)[1])

    seconds = take_turns({name: turn(name) for name in ways}, repeats, device)
    rates = {name: [n / s for n, s in zip(counts[name][1:], seconds[name], strict=True)] for name in ways}
    pairs = [fast / slow for fast, slow in zip(rates["writer"], rates["transformers"], strict=True)]
    return {
        "tokens_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": median_of_pairs(rates["writer"], rates["transformers"]),
        "ratio_range": [min(pairs), max(pairs)],
        "same_bytes": texts["transformers"] == texts["writer"],
    }


def run(quick: bool, device: str, repeats: int) -> dict[str, Any]:
    """All rows of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        rows = [
            {**asdict(case), **measure(case, case.folder(Path(temporary)), device, repeats)}
            for case in track(cases(quick), "caption")
        ]
    return {"machine": machine(device), "quick": quick, "repeats": repeats, "rows": rows}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """A line per VLM, length and temperature."""
    columns = (
        "VLM",
        "tokens",
        "rows",
        "temperature",
        "tokens/s\ntransformers",
        "tokens/s\nwriter",
        "ratio",
        "(of pairs)",
        "bytes",
    )
    table = Table(*columns, title="Captions: the writer against transformers' generate, one image at a time")
    for row in rows:
        rates, (low, high) = row["tokens_per_s"], row["ratio_range"]
        same = "drawn" if row["temperature"] else "equal" if row["same_bytes"] else "differ"
        table.add_row(
            row["name"], str(row["tokens"]), str(row["rows"]), f"{row['temperature']:g}", f"{rates['transformers']:.0f}",
            f"{rates['writer']:.0f}", f"[bold]{row['ratio']:.2f}[/]", f"{low:.1f}-{high:.1f}", same,
        )  # fmt: skip
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.caption", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/caption.json"), help="(runs/bench/caption.json)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU (1)")
    parser.add_argument("--repeats", type=int, help="turns per row (2 with --quick, else 5)")
    options = parser.parse_args(arguments)
    prepare(Process(options.threads))
    device = pick_device(options.device).type
    results = run(options.quick, device, options.repeats or (2 if options.quick else 5))
    console = Console(width=max(120, Console().width))
    console.print(table_of(results["rows"]), results["machine"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out}")


if __name__ == "__main__":
    main()
