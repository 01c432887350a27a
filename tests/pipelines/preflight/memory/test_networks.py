"""What networks keep for a backward, against what torch's hooks count on small networks of the real classes, in bfloat16."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from actors.diffusion import lora
from actors.families.image import Network
from actors.families.registry import PIPELINES
from pipelines.preflight.memory import architectures
from pipelines.preflight.memory.networks import Pass, backward_bytes, forward_bytes, saved_bytes
from tests.support.live_bytes import LiveBytes, fake, saved_for_backward

ROWS, SIDE, TEXT, RANK = 2, 32, 128, 8  # of a batch; of latents; tokens of a caption; of the LoRA
SMALLER: dict[str, dict[str, Any]] = {
    "sd3.5-medium": {
        "num_layers": 5,
        "dual_attention_layers": (0, 1),
        "num_attention_heads": 8,
        "caption_projection_dim": 512,
        "pos_embed_max_size": 32,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 64,
    },
    "flux.1-dev": {"num_layers": 3, "num_single_layers": 4, "num_attention_heads": 4, "joint_attention_dim": 64},
    "qwen-image": {"num_layers": 4, "num_attention_heads": 4, "joint_attention_dim": 64},
    "z-image": {"n_layers": 4, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4, "dim": 512, "cap_feat_dim": 64},
}
OF_TRANSFORMER = {family.transformer: family for family in PIPELINES.values()}
CASES = [(name, targets) for name in SMALLER for targets in ("attention", "all")]
TOKENS = (SIDE // 2) ** 2


def make(name: str, targets: str) -> tuple[nn.Module, Network]:
    """A network with its LoRA, and what is said of it."""
    kind = architectures.load(name)["class"]
    config = {**architectures.load(name)["config"], **SMALLER[name]}
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**config).to(torch.bfloat16).eval().requires_grad_(False)
    facts = OF_TRANSFORMER[kind]
    lora.attach(model, RANK, 2.0, pkgutil.resolve_name(facts.family).lora_targets[targets], seed=0)
    return model, facts.network(config, targets == "all")


def inputs(name: str, model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    sigma = torch.rand(ROWS)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16)

    if name == "z-image":
        return {
            "x": [noise(config.in_channels, 1, SIDE, SIDE) for _ in range(ROWS)],
            "t": sigma,
            "cap_feats": [noise(TEXT, config.cap_feat_dim) for _ in range(ROWS)],
        }
    captions = {"timestep": sigma, "encoder_hidden_states": noise(ROWS, TEXT, config.joint_attention_dim)}
    if name == "sd3.5-medium":
        latents = noise(ROWS, config.in_channels, SIDE, SIDE)
        return {**captions, "hidden_states": latents, "pooled_projections": noise(ROWS, config.pooled_projection_dim)}
    captions["hidden_states"] = noise(ROWS, TOKENS, config.in_channels)
    if name == "qwen-image":
        return {**captions, "encoder_hidden_states_mask": None, "img_shapes": [[(1, SIDE // 2, SIDE // 2)]] * ROWS}
    positions = {"txt_ids": torch.zeros(TEXT, 3), "img_ids": torch.zeros(TOKENS, 3)}
    pooled = noise(ROWS, config.pooled_projection_dim)
    return {**captions, **positions, "guidance": torch.ones(ROWS), "pooled_projections": pooled}


def loss(model: nn.Module, given: dict[str, Any]) -> Tensor:
    predicted = model(**given, return_dict=False)[0]
    return (
        torch.stack(predicted).float().square().mean()
        if isinstance(predicted, list)
        else predicted.float().square().mean()
    )


def known(model: nn.Module, given: dict[str, Any]) -> list[Tensor]:
    values = [item for value in given.values() for item in (value if isinstance(value, list) else [value])]
    return [*model.parameters(), *model.buffers(), *(value for value in values if isinstance(value, Tensor))]


RUN = Pass(ROWS, TOKENS, TEXT, element=2, rank=RANK)


@dataclass(frozen=True)
class Case:
    """A network whose tensors have no numbers, the mode in which it runs, and what is said of it."""

    name: str
    targets: str
    model: nn.Module
    mode: FakeTensorMode
    said: Network


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    """Made once for all tests of it."""
    model, said = make(*request.param)
    return Case(*request.param, model, fake(model), said)


def test_the_lora_has_as_many_numbers_as_the_network_says(case: Case) -> None:
    found = sum(parameter.numel() for parameter in lora.tensors(case.model, lora.TRAINED).values())
    assert found == case.said.lora * RANK


def test_what_is_saved_for_the_backward_is_what_the_hooks_count(case: Case) -> None:
    """Within 6 %: left out are the first norms, which nothing trained comes before, the last one, and small things."""
    with case.mode, saved_for_backward(case.model) as saved:
        loss(case.model, inputs(case.name, case.model))
    assert saved_bytes(case.said, RUN, checkpointing=False) == pytest.approx(sum(saved.values()), rel=0.06)


def test_an_update_takes_no_more_than_was_said_and_not_much_less(case: Case) -> None:
    """Peak bytes of forward and backward, but for the gradient; the excess of small networks is the room for the widest backward.

    Every family is met with and without checkpoints, and with either LoRA: what these cost is added up.
    """
    checkpointing = CASES.index((case.name, case.targets)) % 4 in (1, 2)
    model: Any = case.model
    if checkpointing:
        model.enable_gradient_checkpointing()
    with case.mode:
        given = inputs(case.name, model)
        with LiveBytes(known(model, given)) as live:
            loss(model, given).backward()
    model.disable_gradient_checkpointing()
    model.zero_grad()
    said = saved_bytes(case.said, RUN, checkpointing) + backward_bytes(case.said, RUN) + 4 * case.said.lora * RANK
    assert 0.5 * said < live.peak < 1.02 * said


def test_a_forward_takes_no_more_than_was_said_and_not_much_less(case: Case) -> None:
    with case.mode, torch.no_grad():
        given = inputs(case.name, case.model)
        with LiveBytes(known(case.model, given)) as live:
            case.model(**given, return_dict=False)
    assert 0.4 * forward_bytes(case.said, RUN) < live.peak < forward_bytes(case.said, RUN)


def test_every_network_of_a_family_is_counted() -> None:
    assert {architectures.load(name)["class"] for name in SMALLER} == OF_TRANSFORMER.keys()
