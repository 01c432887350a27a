"""The policy's ranks: step time and peak memory of plain torch and of ZeRO 1 to 3, on one and two ranks, in one run.

    python -m bench.zero [--model toy|sd35-medium] [--device cpu|cuda] [--quick] [--rounds N] [--updates N] [--out DIR]

Every configuration trains the same samples, shared evenly among its ranks, in processes of its own; each round runs all
configurations once, and a step's time is given as a ratio to that of plain torch. sd35-medium is a transformer of that size
with random weights; with --quick it is a small one of the same make.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import CLIPTextModelWithProjection

from actors.device import pick_device
from actors.messages import Latents, UpdateGroup
from actors.options import Device
from actors.policy.actor import PolicyActor
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.options import LearnerOptions, LearnerSettings
from actors.process import Process, prepare
from bench.hardware import MB, machine, resident_bytes
from toy.random_models.sd3 import make_tiny_sd3

WARMUP = 2
SD35_MEDIUM = {
    "sample_size": 128,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "in_channels": 16,
    "out_channels": 16,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
SMALL = {"num_layers": 2, "num_attention_heads": 2, "caption_projection_dim": 128, "dual_attention_layers": (0,)}


@dataclass(frozen=True)
class Case:
    """A model and a step's work: latents CHW, images of `pixels`, samples of a step, samples per backward, tokens beside CLIP's."""

    model: str
    latents: tuple[int, int, int]
    pixels: int
    samples: int
    micro_batch: int
    tokens: int = 2
    lora_rank: int = 16
    transformer: dict[str, Any] | None = None
    activation_checkpointing: bool = False

    def folder(self, parent: Path, device: str) -> Path:
        """The model's folder: the one that is named, or one made under `parent`."""
        if self.transformer is None:
            return Path(self.model)
        return make_sd3(make_tiny_sd3(parent / "tiny"), parent / "sd3", self.transformer, device)

    def settings(self, folder: Path, device: Device, stage: Literal[0, 1, 2, 3]) -> LearnerSettings:
        """Of a learner: the recipe's defaults, but for what this case says."""
        policy = LearnerOptions(
            model=str(folder),
            zero_stage=stage,
            activation_checkpointing=self.activation_checkpointing,
            max_sequence_length=self.tokens,
            lora_rank=self.lora_rank,
            lora_alpha=2.0 * self.lora_rank,
            micro_batch=self.micro_batch,
            device=device,
        )
        objective = AwmOptions(timesteps="uniform", timesteps_per_sample=2)
        return LearnerSettings(policy, objective, 8, 1.0, self.pixels, self.pixels, seed=0, total_steps=1000)

    def share(self, step: int, rank: int, ranks: int) -> tuple[tuple[UpdateGroup, ...], Latents]:
        """A rank's samples of a step: one group of noise."""
        count = self.samples // ranks
        generator = np.random.default_rng((step, rank))
        seeds = tuple(int(seed) for seed in generator.integers(0, 2**62, count))
        group = UpdateGroup(step, rank, "p", "a red circle", step - 1, tuple(generator.normal(size=count)), seeds)
        return (group,), Latents(generator.normal(size=(count, *self.latents)).astype(np.float32))


CASES = {
    "toy": Case("toy/models/image", (12, 4, 4), 32, samples=32, micro_batch=8),
    "sd35-medium": Case("sd35-medium", (16, 64, 64), 512, 8, 4, tokens=317, lora_rank=32, transformer=SD35_MEDIUM),
}


def make_sd3(tiny: Path, folder: Path, shape: dict[str, Any], device: str) -> Path:
    """A pipeline with a transformer of this shape, of random weights in bfloat16, and text encoders whose widths fit to it."""
    pipe = StableDiffusion3Pipeline.from_pretrained(tiny, text_encoder_3=None, tokenizer_3=None)
    with torch.device(device):
        transformer = SD3Transformer2DModel(**shape).to(torch.bfloat16)
    config = pipe.text_encoder.config
    config.projection_dim = shape["pooled_projection_dim"] // 2
    encoders = {name: CLIPTextModelWithProjection(config) for name in ("text_encoder", "text_encoder_2")}
    parts = {**pipe.components, "transformer": transformer, **encoders}
    StableDiffusion3Pipeline(**parts).save_pretrained(folder)
    return folder


def measure(case: Case, settings: LearnerSettings, ranks: int, updates: int, threads: int) -> dict[str, Any]:
    """Seconds of each update, and the largest peak of a rank's memory, of one configuration in fresh processes."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(ranks):
        mine, theirs = context.Pipe()
        process = context.Process(
            target=work, args=(theirs, case, settings, rank, ranks, updates, threads), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    try:
        address = pipes[0].recv()
        for pipe in pipes:
            pipe.send(address)
        results = [pipe.recv() for pipe in pipes]
    except EOFError as error:
        raise SystemExit(f"a rank of stage {settings.policy.zero_stage} failed; its own error stands above") from error
    finally:
        for process in processes:
            process.kill()
            process.join()
    return {"seconds": results[0]["seconds"], "peak_mb": max(result["peak_mb"] for result in results)}


def work(
    pipe: Connection, case: Case, settings: LearnerSettings, rank: int, ranks: int, updates: int, threads: int
) -> None:
    """The life of a rank."""
    try:
        prepare(Process(threads))
        os.environ["DS_ACCELERATOR"] = settings.policy.device
        import deepspeed  # noqa: F401  # for all stages alike, so that its memory counts for none

        before = resident_bytes("VmRSS")
        actor = PolicyActor(rank, ranks, Process(threads, 0.0), settings)
        if rank == 0:
            pipe.send(actor.address())
        actor.join(pipe.recv())
        gpu, seconds = settings.policy.device == "cuda", []
        for step in range(1, WARMUP + updates + 1):
            share = case.share(step, rank, ranks)
            start = time.perf_counter()
            actor.update(step, *share)
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() if gpu else resident_bytes("VmHWM") - before
        pipe.send({"seconds": seconds[WARMUP:], "peak_mb": peak / MB})
        pipe.recv()  # until it is ended
    except Exception:
        traceback.print_exc()


def run(
    case: Case, device: Device, gangs: Sequence[tuple[int, int]], rounds: int, updates: int, threads: int
) -> list[dict]:
    """A row for each (stage, ranks), that of plain torch first."""
    rows: list[dict[str, Any]] = [
        {"stage": stage, "ranks": ranks, "seconds": [], "peak_mb": 0.0} for stage, ranks in gangs
    ]
    with TemporaryDirectory() as temporary:
        folder = case.folder(Path(temporary), device)
        for _ in range(rounds):
            for row in track(rows, "configurations"):
                settings = case.settings(folder, device, row["stage"])
                result = measure(case, settings, row["ranks"], updates, threads)
                row["seconds"] += result["seconds"]
                row["peak_mb"] = max(row["peak_mb"], result["peak_mb"])
    plain = statistics.median(rows[0]["seconds"])
    return [{**row, "ratio": statistics.median(row["seconds"]) / plain} for row in rows]


def table(case: Case, rows: list[dict[str, Any]]) -> Table:
    """A line per configuration."""
    made = Table(
        "", "ranks", "step, ms", "ratio to\nplain torch", "peak MB\nof a rank", title=f"A step of {case.model}"
    )
    for row in rows:
        name = f"ZeRO {row['stage']}" if row["stage"] else "plain torch"
        step = 1e3 * statistics.median(row["seconds"])
        made.add_row(name, str(row["ranks"]), f"{step:.1f}", f"[bold]{row['ratio']:.2f}[/]", f"{row['peak_mb']:.0f}")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.zero", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=CASES, default="toy")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--ranks", type=int, nargs="+", help="of ZeRO (1 and 2; on a GPU as many as there are)")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3], choices=(1, 2, 3))
    parser.add_argument("--quick", action="store_true", help="small cases, to see that it works")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each rank, on a CPU (1)")
    parser.add_argument("--rounds", type=int, help="through all configurations (1 with --quick, else 2)")
    parser.add_argument("--updates", type=int, help="timed in each round (2 with --quick, else 10)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for zero.json (runs/bench)")
    options = parser.parse_args(arguments)
    prepare(Process(options.threads))
    device: Device = "cuda" if pick_device(options.device).type == "cuda" else "cpu"
    case = replace(CASES[options.model], activation_checkpointing=options.activation_checkpointing)
    if options.quick:
        case = replace(case, samples=4, micro_batch=2)
        if case.transformer is not None:
            case = replace(case, transformer={**case.transformer, **SMALL}, latents=(16, 8, 8), pixels=64, tokens=2)
    ranks = options.ranks or ([1] if device == "cuda" and torch.cuda.device_count() < 2 else [1, 2])
    gangs = [(0, 1), *((stage, n) for stage in options.stages for n in ranks)]
    rounds, updates = options.rounds or (1 if options.quick else 2), options.updates or (2 if options.quick else 10)
    rows = run(case, device, gangs, rounds, updates, options.threads)
    console = Console(width=max(100, Console().width))
    results = {"machine": machine(device), "case": asdict(case), "rows": rows}
    console.print(table(case, rows), results["machine"])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "zero.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out / 'zero.json'}")


if __name__ == "__main__":
    main()
