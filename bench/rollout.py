"""Our sampler against the diffusers pipeline, with the same random weights and the same noise, in one run.

    python -m bench.rollout --family sd3.5-medium|flux.1-dev|qwen-image|z-image [--tiny] [--size 512] [--steps 20] [--batch 8]
                            [--guidance G] [--compile] [--device cpu|cuda] [--repeats N] [--out DIR]

Both draw latents for one caption; in float32 they must agree. Decoding is timed apart. On a GPU the sampling loop also runs once where
any wait for the device is an error. With --compile our loop runs a third time through torch.compile, measured after the others.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from actors.diffusion.compiling import compile_blocks
from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family
from actors.diffusion.sample import draw_latents, starting_noise
from bench.command import command_line, fill_in, finish, start, surroundings
from bench.flops import TRANSFORMERS
from bench.full_size import CAPTION, IMAGE_MODELS, image_model, transformer_config
from bench.hardware import median_of_pairs, peak_memory, take_turns
from pipelines.preflight.memory.architectures import load

AGREEMENT = (
    1e-3  # relative, in float32; in bfloat16, in which most pipelines also step, the difference is only reported
)
USUAL = {"size": 512, "steps": 20, "batch": 8}
ASKED = ("family", "tiny", "size", "steps", "batch", "tokens", "guidance")
TINY = {"size": 64, "steps": 3, "batch": 2, "tokens": 20}


def pipeline_arguments(family: Family, prompted: Prompted) -> dict[str, Any]:
    """The prompt and the guidance in the words of the family's pipeline."""
    given = _of_conditions(prompted.conditions.tensors)
    if "guidance" in prompted.conditions.tensors:
        return given | {"guidance_scale": prompted.conditions.tensors["guidance"][0].item()}
    if prompted.unconditional is not None:
        given |= {f"negative_{name}": value for name, value in _of_conditions(prompted.unconditional.tensors).items()}
    scale = prompted.guidance_scale if prompted.unconditional is not None else 0.0
    return given | {"true_cfg_scale" if "prompt_embeds_mask" in given else "guidance_scale": scale}


def _of_conditions(tensors: dict[str, Tensor]) -> dict[str, Any]:
    embeds = tensors["prompt_embeds"]
    if "pooled_prompt_embeds" in tensors:
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": tensors["pooled_prompt_embeds"]}
    if "prompt_mask" in tensors:
        return {"prompt_embeds": embeds, "prompt_embeds_mask": tensors["prompt_mask"]}
    return {"prompt_embeds": list(embeds)}


def drawers(
    family: Family, prompted: Prompted, noise_BCHW: Tensor, size: int, steps: int
) -> dict[str, Callable[[], Tensor]]:
    """Latents [B, C, H, W] from the noise, by the pipeline and by us."""
    pipeline: Any = family.pipeline
    arguments = pipeline_arguments(family, prompted)
    sigmas = family.sigmas(steps, size, size)

    def pipeline_draws() -> Tensor:
        packs = hasattr(pipeline, "_pack_latents")
        noise = pipeline._pack_latents(noise_BCHW, *noise_BCHW.shape) if packs else noise_BCHW
        asked = {"height": size, "width": size, "num_inference_steps": steps, "output_type": "latent"}
        latents = pipeline(latents=noise, **asked, **arguments).images
        if packs:
            latents = pipeline._unpack_latents(latents, size, size, pipeline.vae_scale_factor)
        return latents.reshape(noise_BCHW.shape).float()  # a VAE of videos has an axis of frames

    return {"pipeline": pipeline_draws, "ours": lambda: draw_latents(family, noise_BCHW, sigmas, prompted)}


def waits_for_device(loop: Callable[[], Any], device: torch.device) -> str:
    """The words "no", what waited, or that this device cannot tell."""
    if device.type != "cuda":
        return "not asked: no GPU"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop()
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def flop_per_image(options: argparse.Namespace, family: Family, prompted: Prompted) -> float:
    """All steps of one image, with both halves of the guidance if there are two; padding is not counted."""
    count = TRANSFORMERS[load(options.family)["class"]]
    config = transformer_config(options.family, options.tiny)
    halves = [prompted.conditions] + ([prompted.unconditional] if prompted.unconditional else [])
    tokens = [half.tensors["prompt_embeds"].shape[1] for half in halves]
    return options.steps * sum(
        count(config, family.tokens(options.size, options.size), text).forward for text in tokens
    )


def measure(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Everything about one family. Raises RuntimeError where the two ways disagree."""
    with TemporaryDirectory() as temporary:
        family = image_model(options.family, device, dtype, options.tiny, options.tokens, Path(temporary))
    single = family.prompted(CAPTION, options.guidance)
    noise_BCHW = starting_noise(family, range(options.batch), options.size, options.size)
    ways = drawers(family, single.repeat(options.batch), noise_BCHW, options.size, options.steps)
    latents_BCHW, theirs_BCHW = ways["ours"](), ways["pipeline"]()
    difference = float((latents_BCHW - theirs_BCHW).norm() / theirs_BCHW.norm())
    if dtype == torch.float32 and not difference < AGREEMENT:
        raise RuntimeError(f"our latents differ from the pipeline's by {difference:.2e} of their size")
    waits = waits_for_device(ways["ours"], device)
    peaks = {}
    for name, way in ways.items():
        with peak_memory(device.type) as peak:
            way()
        peaks[name] = peak.mb
    seconds = take_turns(ways, options.repeats, device.type)
    if options.compile:
        compile_blocks(family.transformer)
        seconds |= take_turns({"compiled": ways["ours"]}, options.repeats, device.type)
    decoding = take_turns({"decode": lambda: family.decode(latents_BCHW)}, options.repeats, device.type)
    return {
        "tflop_per_image": flop_per_image(options, family, single) / 1e12,
        "seconds": {name: statistics.median(values) for name, values in (seconds | decoding).items()},
        "ratio": {way: median_of_pairs(seconds["pipeline"], seconds[way]) for way in seconds},
        "peak_mb": peaks,
        "difference": difference,
        "waits": waits,
    }


def rates(result: dict[str, Any], batch: int, peak: float) -> dict[str, dict[str, float]]:
    """Images per second of each way of drawing, and its share of the machine's peak."""
    images = {way: batch / result["seconds"][way] for way in result["ratio"]}
    shares = {way: rate * result["tflop_per_image"] * 1e12 / peak for way, rate in images.items()}
    return {"images_per_s": images, "share_of_peak": shares}


def table(results: dict[str, Any]) -> Table:
    """A line per way of drawing."""
    size, steps, batch = (results[name] for name in ("size", "steps", "batch"))
    work = f"{size} px, {steps} steps, {batch} at once, {results['tflop_per_image']:.3g} TFLOP an image"
    title = f"{results['family']}, {work}"
    made = Table("", "s", "images/s", "ratio to\nthe pipeline", "share\nof peak", "peak MB", title=title)
    for way, ratio in results["ratio"].items():
        made.add_row(
            way, f"{results['seconds'][way]:.3f}", f"{results['images_per_s'][way]:.3g}", f"[bold]{ratio:.2f}[/]",
            f"{results['share_of_peak'][way]:.2f}", f"{results['peak_mb'][way]:.0f}" if way in results["peak_mb"] else "",
        )  # fmt: skip
    decode = results["seconds"]["decode"]
    made.caption = f"decoding {batch}: {decode:.3f} s; waits for the device: {results['waits']}"
    return made


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = command_line("bench.rollout", __doc__)
    parser.add_argument("--family", choices=IMAGE_MODELS, default="sd3.5-medium")
    parser.add_argument("--size", type=int, help="pixels of an edge (512; 64 with --tiny)")
    parser.add_argument("--steps", type=int, help="of the sampler (20; 3 with --tiny)")
    parser.add_argument("--batch", type=int, help="images at once (8; 2 with --tiny)")
    parser.add_argument("--tokens", type=int, help="of the caption (what the family's encoders give; 20 with --tiny)")
    parser.add_argument("--guidance", type=float, default=0.0, help="in the words of the family's pipeline (0: none)")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    options = parser.parse_args(arguments)
    device, dtype = start(options)
    fill_in(options, TINY if options.tiny else {**USUAL, "tokens": IMAGE_MODELS[options.family].caption_tokens})
    asked = {name: getattr(options, name) for name in ASKED}
    around = surroundings(device, dtype)
    result = measure(options, device, dtype)
    results = around | asked | result | rates(result, options.batch, around["peak_flop_per_s"])
    finish(results, [table(results)], options.out / f"rollout_{options.family}.json")


if __name__ == "__main__":
    main()
