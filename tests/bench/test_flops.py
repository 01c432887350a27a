"""The closed forms of operations against torch's own count, operator by operator, on the real widths with few layers."""

import copy

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from actors.diffusion.limits import JOINT_ATTENTION
from actors.messages import Prompt
from actors.reward.kinds.promptecho import PromptEcho, PromptEchoOptions
from bench.flops import TRANSFORMERS, language_model, vlm, within_windows
from bench.full_size_judge import VLMS, judge
from bench.judge import flop_per_image
from pipelines.preflight.memory.architectures import load, names
from toy.random_models.vlms import make_tiny_llava

FEW = {
    "sd3.5-medium": {"num_layers": 4, "dual_attention_layers": [0, 1]},
    "flux.1-dev": {"num_layers": 2, "num_single_layers": 3},
    "qwen-image": {"num_layers": 4},
    "z-image": {"n_layers": 4},
}
IMAGE, TEXT = 1024, 300  # tokens; for Z-Image the caption is padded to 320
RANK = 32


def inputs(name: str) -> dict:
    """Of one image, without numbers."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    tokens = {"hidden_states": empty(1, IMAGE, 64), "timestep": empty(1)}
    if name == "sd3.5-medium":
        embeds = {"encoder_hidden_states": empty(1, TEXT, 4096), "pooled_projections": empty(1, 2048)}
        return {**tokens, **embeds, "hidden_states": empty(1, 16, 64, 64)}
    if name == "flux.1-dev":
        embeds = {"encoder_hidden_states": empty(1, TEXT, 4096), "pooled_projections": empty(1, 768)}
        return {**tokens, **embeds, "guidance": empty(1), "txt_ids": empty(TEXT, 3), "img_ids": empty(IMAGE, 3)}
    if name == "qwen-image":
        return {**tokens, "encoder_hidden_states": empty(1, TEXT, 3584), "img_shapes": [[(1, 32, 32)]]}
    return {"x": [empty(16, 1, 64, 64)], "t": empty(1), "cap_feats": [empty(TEXT, 2560)]}


def output(model: torch.nn.Module, name: str) -> torch.Tensor:
    """What the transformer predicts."""
    predicted = model(**inputs(name), return_dict=False)[0]
    return predicted[0] if isinstance(predicted, list) else predicted


@pytest.mark.parametrize("name", FEW)
def test_a_transformer_takes_what_the_formula_says(name: str):
    description = load(name)
    config = {**description["config"], **FEW[name]}
    with torch.device("meta"):
        model = getattr(diffusers, description["class"])(**config).eval().requires_grad_(False)
    flops = TRANSFORMERS[description["class"]](config, IMAGE, TEXT)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output(model, name)
    assert flops.forward == pytest.approx(counter.get_total_flops(), rel=1e-6)

    model.add_adapter(LoraConfig(r=RANK, target_modules=list(JOINT_ATTENTION)))
    with FlopCounterMode(display=False) as counter:
        output(model, name).sum().backward()
    width = config.get("dim") or config["num_attention_heads"] * config["attention_head_dim"]
    assert flops.training(2 * RANK / width) == pytest.approx(counter.get_total_flops(), rel=2e-3)


def count_forward(reward: PromptEcho, images_KHWC: np.ndarray, caption: str) -> tuple[int, dict[str, torch.Tensor]]:
    """Operations of the model's own forward on the group, with the head on the caption, and the inputs."""
    batch = reward.vlm.batch(images_KHWC, reward.options.query, caption, False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        states_KTD = reward.vlm.states(batch)
        _ = states_KTD @ reward.vlm.lm_head.T
    return counter.get_total_flops(), batch.inputs


@pytest.mark.parametrize("name", [*VLMS, "llava"])
@pytest.mark.parametrize("size", [(84, 84), (112, 168)])
def test_a_vlm_takes_what_the_formula_says(name: str, size: tuple[int, int], tmp_path):
    """The models are narrow ones of the same make; 84 px are windows that do not come out even."""
    if name == "llava":
        reward = PromptEchoOptions(
            model=str(make_tiny_llava(tmp_path, width=64, image_size=48)), device="cpu", dtype="float32"
        ).load()
    else:
        reward = judge(name, torch.device("cpu"), torch.float32, tiny=True, folder=tmp_path)
    images_KHWC = np.zeros((2, *size, 3), np.uint8)
    caption = "a red circle above a blue square"
    counted, inputs = count_forward(reward, images_KHWC, caption)
    tokens, predicted = inputs["input_ids"].shape[1], len(reward.explain(images_KHWC, Prompt("0", caption))[1].tokens)
    config = reward.vlm.model.config.to_dict()
    patches = (6, 6) if name == "llava" else tuple(inputs["image_grid_thw"][0, 1:].tolist())
    assert 2 * vlm(config, patches, tokens, predicted).forward == pytest.approx(counted, rel=0.02)
    if size[0] == size[1]:
        assert flop_per_image(reward, size[0], tokens, predicted) == vlm(config, patches, tokens, predicted).forward


def test_a_vlm_without_a_formula_is_refused():
    config = {**copy.deepcopy(load("qwen3-vl-8b")["config"]), "model_type": "idefics3"}
    with pytest.raises(ValueError, match="idefics3"):
        vlm(config, (2, 2), 10, 5)


def test_windows_hold_the_pairs_that_share_one():
    for length in range(1, 20):
        places = np.arange(length) // 8
        assert within_windows(length, 8) == (places[:, None] == places[None]).sum()


def test_a_language_model_costs_two_operations_a_weight_and_token():
    """Of Qwen3-4B, but for attention: the number of its parameters without norms and the embedding, which the head shares."""
    assert "qwen3-4b" in names()
    config = load("qwen3-4b")
    flops = language_model(config["config"], 1, 0)
    norms = 36 * (2 * 2560 + 2 * 128) + 2560
    weights = config["parameters"] - norms - 151936 * 2560
    assert flops.projections + flops.layers == 2 * weights
