"""The doctor's estimate against counted bytes: models of full size on fake tensors, ranks of ZeRO, and a policy process on the CPU.

    python -m bench.estimate [--only networks judges decoders ranks process] [--out DIR]

Fake tensors have shapes and no memory, so that a full-size forward and backward can be counted, tensor by tensor, on any machine.
Counted are tensors, in bfloat16 as the CPU's code makes them: not CUDA's context, workspaces or the allocator's gaps.
"""

from __future__ import annotations

import argparse
import gc
import json
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
import transformers
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from actors.diffusion import lora
from actors.families.registry import PIPELINES
from actors.policy.actor import PolicyActor
from actors.policy.options import LearnerOptions, LearnerSettings
from actors.process import Process, prepare
from bench.gang import in_processes
from bench.hardware import resident_bytes
from bench.zero import CASES
from pipelines.preflight.memory import architectures
from pipelines.preflight.memory.counts import samples_of_rank
from pipelines.preflight.memory.judge import TEXT_INNER, TEXT_WIDTHS
from pipelines.preflight.memory.models import image_model, known
from pipelines.preflight.memory.networks import Pass, backward_bytes, forward_bytes, saved_bytes
from pipelines.preflight.memory.workers import decoder_numel, policy_rank, trained_bytes
from pipelines.recipe.load import load_recipe
from tests.support.gang import samples, settings
from tests.support.live_bytes import LiveBytes, saved_for_backward
from toy.random_models.sd3 import make_tiny_sd3

MIB = 2**20
ROWS, LATENT_SIDE, TEXT, RANK = 2, 64, 512, 32  # 512 px
NETWORKS = {
    "sd3.5-medium": "StableDiffusion3Pipeline",
    "flux.1-dev": "FluxPipeline",
    "qwen-image": "QwenImagePipeline",
    "z-image": "ZImagePipeline",
}
GANGS = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]
Row = tuple[str, str, float, float]  # of what, what, bytes said, bytes counted


def networks() -> Iterator[Row]:
    """What each image transformer keeps for a backward, the peak of an update with checkpointing, and of a forward."""
    for name in NETWORKS:
        found = known(name)
        network = PIPELINES[NETWORKS[name]].network(found.config, everything=False)
        run = Pass(ROWS, (LATENT_SIDE // 2) ** 2, TEXT, element=2, rank=RANK)
        gradient = 4 * network.lora * RANK
        saved, peak, forward = count_network(name)
        yield name, "kept for the backward", saved_bytes(network, run, False), saved
        update = saved_bytes(network, run, True) + backward_bytes(network, run) + gradient
        yield name, "update with checkpointing", update, peak
        yield name, "forward", forward_bytes(network, run), forward


def count_network(name: str) -> tuple[int, int, int]:
    """(saved for the backward, peak of an update with checkpointing, peak of a forward) of a transformer with its LoRA."""
    description = architectures.load(name)
    with torch.device("meta"):
        model = getattr(diffusers, description["class"])(**description["config"]).to(torch.bfloat16)
    attach(model, pkgutil.resolve_name(PIPELINES[NETWORKS[name]].family).lora_targets["attention"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(model)
        given = network_inputs(name, model)
        own = [*model.parameters(), *model.buffers()]
        with saved_for_backward(model) as saved:
            loss_of(model, given)
        with torch.no_grad(), LiveBytes(own) as forward:
            model(**given, return_dict=False)
        model.enable_gradient_checkpointing()
        with LiveBytes(own) as update:
            loss_of(model, given).backward()
    return sum(saved.values()), update.peak, forward.peak


def attach(model: nn.Module, targets: tuple[str, ...]) -> None:
    """As `lora.attach`, on the meta device and without values."""
    with torch.device("meta"):
        for name in (lora.TRAINED, lora.EMA):
            config = LoraConfig(r=RANK, target_modules=list(targets), init_lora_weights=False)
            model.add_adapter(config, adapter_name=name)  # type: ignore[operator]
    model.requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
            for linear in (*layer.lora_A.values(), *layer.lora_B.values()):
                linear.__class__ = lora.MasterLinear
                linear.weight = nn.Parameter(torch.empty_like(linear.weight, dtype=torch.float32))
    lora.train(model)


def to_fake(model: nn.Module) -> None:
    """Within a fake mode: every parameter and buffer becomes a fake one."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def network_inputs(name: str, model: Any) -> dict[str, Any]:
    """Random numbers of the right shapes."""
    config, side, tokens = model.config, LATENT_SIDE, (LATENT_SIDE // 2) ** 2

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16)

    sigma = torch.rand(ROWS)
    if name == "z-image":
        latents = [noise(config.in_channels, 1, side, side) for _ in range(ROWS)]
        return {"x": latents, "t": sigma, "cap_feats": [noise(TEXT, config.cap_feat_dim) for _ in range(ROWS)]}
    captions = {"timestep": sigma, "encoder_hidden_states": noise(ROWS, TEXT, config.joint_attention_dim)}
    if name == "sd3.5-medium":
        pooled = noise(ROWS, config.pooled_projection_dim)
        return {**captions, "hidden_states": noise(ROWS, config.in_channels, side, side), "pooled_projections": pooled}
    captions["hidden_states"] = noise(ROWS, tokens, config.in_channels)
    if name == "qwen-image":
        return {**captions, "encoder_hidden_states_mask": None, "img_shapes": [[(1, side // 2, side // 2)]] * ROWS}
    positions = {"txt_ids": torch.zeros(TEXT, 3), "img_ids": torch.zeros(tokens, 3), "guidance": torch.ones(ROWS)}
    return {**captions, **positions, "pooled_projections": noise(ROWS, config.pooled_projection_dim)}


def loss_of(model: nn.Module, given: dict[str, Any]) -> Tensor:
    """A number that every output has a share in."""
    predicted = model(**given, return_dict=False)[0]
    return (torch.stack(predicted) if isinstance(predicted, list) else predicted).float().square().mean()


def judges() -> Iterator[Row]:
    """The language model of each judge: four rows of 1,400 tokens."""
    for name in ("qwen2.5-vl-7b", "qwen3-vl-8b", "qwen3-vl-32b"):
        description = architectures.load(name)
        kind = getattr(transformers, description["class"])
        with torch.device("meta"):
            config = kind.config_class(**description["config"])
            model = kind._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16).eval()
        text = model.config.text_config
        with FakeTensorMode(allow_non_fake_inputs=True):
            to_fake(model)
            states = torch.randn(4, 1400, text.hidden_size, dtype=torch.bfloat16)
            positions = torch.zeros(3, 4, 1400, dtype=torch.long)
            with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
                model.model.language_model(inputs_embeds=states, position_ids=positions, use_cache=False)
        said = 2 * states[..., 0].numel() * (TEXT_INNER * text.intermediate_size + TEXT_WIDTHS * text.hidden_size)
        yield name, "language model, 5,600 tokens", said, live.peak + 2 * states.numel()


def decoders() -> Iterator[Row]:
    """A VAE's decoder at 512 px."""
    for name in ("vae-sd3", "vae-qwen-image"):
        description = architectures.load(name)
        with torch.device("meta"):
            model = getattr(diffusers, description["class"])(**description["config"]).to(torch.bfloat16).eval()
        with FakeTensorMode(allow_non_fake_inputs=True):
            to_fake(model)
            latents = torch.randn(1, 16, 64, 64, dtype=torch.bfloat16)
            with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as live:
                model.decode(latents.unsqueeze(2) if name == "vae-qwen-image" else latents, return_dict=False)
        yield name, "one image of 512 px", 2 * decoder_numel(known(name)) * 512**2, live.peak


def ranks() -> Iterator[Row]:
    """What a rank holds for its LoRA in the middle of a backward, in each stage and number of ranks."""
    with TemporaryDirectory() as temporary:
        folder = make_tiny_sd3(Path(temporary) / "sd3")
        for stage, count in GANGS:
            policy = settings(str(folder), zero_stage=stage, lora_rank=512, lora_targets="all")
            results = in_processes(count, rank_work, policy)
            largest = max(results, key=lambda result: result["bytes"])
            said = sum(trained_bytes(stage, count, largest["numel"]).values())
            yield (
                f"ZeRO {stage}" if stage else "plain torch",
                f"{count} ranks" if count > 1 else "1 rank",
                said,
                largest["bytes"],
            )


def rank_work(pipe: Connection, rank: int, count: int, policy: LearnerSettings) -> None:
    """The life of a rank: bytes of all its tensors while a micro-batch's gradient is there, but for what it loaded with."""
    actor = PolicyActor(rank, count, Process(1, 0.0), policy)
    numel = sum(p.numel() for p in lora.tensors(actor.family.transformer, lora.TRAINED).values())
    before = bytes_of_all_tensors() - 2 * 4 * numel
    if rank == 0:
        pipe.send(actor.address())
    actor.join(pipe.recv())
    actor.update(1, *samples(1, [4] * count)[rank])
    seen = [0]
    backward = actor.learner.engine.backward

    def watched(loss: Tensor, last: bool) -> None:
        backward(loss, last)
        seen.append(bytes_of_all_tensors() - before)

    actor.learner.engine.backward = watched  # type: ignore[method-assign]
    actor.update(2, *samples(2, [4] * count)[rank])
    pipe.send({"numel": numel, "bytes": max(seen)})
    pipe.recv()


def bytes_of_all_tensors() -> int:
    """Of this process, each storage once."""
    gc.collect()
    storages = {}
    for tensor in [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]:
        for each in (tensor, tensor.grad if tensor.is_leaf else None):
            if each is not None:
                storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return sum(storages.values())


def process() -> Iterator[Row]:
    """A policy process on the CPU, which trains the miniature model: its tensors at the peak of an update, and its resident memory."""
    recipe = load_recipe(Path("recipes/toy.toml"))
    image = image_model(recipe.policy.model)
    said = policy_rank(
        recipe.rollout, recipe.policy, recipe.objective, image, image.shape(recipe.policy.max_sequence_length)
    ).peak
    policy, steps = recipe.policy.part(LearnerOptions), recipe.rollout.steps
    made = LearnerSettings(policy, recipe.objective, steps, 1.0, 32, 32, seed=0, total_steps=3)
    for what, counting in (("a policy's tensors", True), ("growth of a policy's process", False)):
        [result] = in_processes(1, process_work, made, samples_of_rank(recipe.rollout, recipe.policy.ranks), counting)
        yield "recipes/toy.toml", what, said, result["bytes"]


def process_work(
    pipe: Connection, rank: int, count: int, made: LearnerSettings, num_samples: int, counting: bool
) -> None:
    """The life of the policy's process. A first actor and a small update have all libraries loaded before anything counts."""
    prepare(Process(1))
    pipe.send("")
    pipe.recv()
    case = replace(CASES["toy"], samples=num_samples)
    first = PolicyActor(rank, count, Process(1, 0.0), made)
    first.join("")
    first.update(1, *replace(case, samples=2).share(1, 0, 1))
    del first
    gc.collect()
    before = resident_bytes("VmRSS")
    with LiveBytes() if counting else nullcontext() as live:
        actor = PolicyActor(rank, count, Process(1, 0.0), made)
        actor.join("")
        for step in (1, 2):
            actor.update(step, *case.share(step, 0, 1))
    pipe.send({"bytes": live.peak if live else resident_bytes("VmHWM") - before})
    pipe.recv()


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "networks": networks,
    "judges": judges,
    "decoders": decoders,
    "ranks": ranks,
    "process": process,
}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for estimate.json (runs/bench)")
    options = parser.parse_args(arguments)
    table = Table("", "", "said, MiB", "counted, MiB", "said over counted")
    rows = []
    for part in options.only:
        for of, what, said, counted in PARTS[part]():
            rows.append({"of": of, "what": what, "said": said, "counted": counted})
            table.add_row(of, what, f"{said / MIB:.1f}", f"{counted / MIB:.1f}", f"{said / counted:.2f}")
    console = Console(width=max(100, Console().width))
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "estimate.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
