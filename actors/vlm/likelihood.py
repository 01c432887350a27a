"""How likely a frozen VLM finds a text as the answer to (image, query): the log-probability of each of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from actors.device import to_host
from actors.messages import Chance, TokenLogProbs, WriteRequest
from actors.vlm.family import Vlm
from actors.vlm.limits import CHUNK_TOKENS, CPU_CHUNK_TOKENS, LOGITS_AT_ONCE
from actors.vlm.options import reads_like

if TYPE_CHECKING:
    from actors.vlm.frozen import FrozenVlm

NO_NUMBERS = "the logits are no numbers: the weights are damaged, or they overflow in this dtype"


@torch.inference_mode()
def token_log_probs(
    vlm: Vlm,
    images_KHWC: np.ndarray | None,
    query: str,
    answer: str,
    include_eos: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TokenLogProbs:
    """log p(c_t | image, query, c_<t) for every token c_t of the answer, given each of K images; without an image, K = 1.

    `images_KHWC` is uint8 RGB or None. The result is float32 [K, T], in nats. Only the T positions that predict the answer get
    logits, for at most `chunk_tokens` of them and a block of the vocabulary at once: neither [K, L, V] nor [K, T, V] exists.
    Raises ValueError for an empty answer. A row that is not a number stays so and touches no other row.
    Source: PromptEcho, L_CE = -(1/T) sum_t log p(c_t | X, q, c_<t). Left out: sharing a prefix between several answers.
    """
    batch = vlm.batch(images_KHWC, query, answer, include_eos)
    states_KTD = vlm.states(batch)
    flat_ids = batch.answer_ids_T.repeat(len(states_KTD))
    flat = picked_log_probs(states_KTD.flatten(0, 1), flat_ids, vlm.lm_head, chunk_tokens)
    return TokenLogProbs(batch.tokens, to_host(flat.view(states_KTD.shape[:2])).numpy())


def picked_log_probs(states_BD: Tensor, ids_B: Tensor, lm_head_VD: Tensor, chunk_tokens: int) -> Tensor:
    """log_softmax(states @ lm_head.T)[ids], float32 [B], as the picked logit minus the logsumexp over the vocabulary.

    Products of the states' dtype are summed in float32: a bfloat16 logit of 20 would be off by up to 0.06 nats.
    """
    if states_BD.device.type == "cpu":
        chunk_tokens = min(chunk_tokens, CPU_CHUNK_TOKENS)
    chunks = zip(states_BD.split(chunk_tokens), ids_B.split(chunk_tokens), strict=True)
    return torch.cat([_chunk_log_probs(states_bD, ids_b, lm_head_VD) for states_bD, ids_b in chunks])


@torch.inference_mode()
def chances(
    vlm: FrozenVlm, requests: Sequence[WriteRequest], images: Sequence[np.ndarray], answer: str
) -> tuple[Chance, ...]:
    """How likely each next turn begins with the token `answer`, in whatever case and with or without spaces before it.

    Raises ValueError if the VLM has no such token.
    """
    ids = spellings(vlm, answer)
    if not len(ids):
        raise ValueError(f"this VLM has no token {answer!r}: ask for an answer that is one token")
    return tuple(_chance(vlm, request, images, ids) for request in requests)


def spellings(vlm: FrozenVlm, answer: str) -> Tensor:
    """The ids of all tokens that read like the answer."""
    texts = vlm.tokenizer.batch_decode([[token] for token in range(len(vlm.tokenizer))])
    return torch.tensor([token for token, text in enumerate(texts) if reads_like(text, answer)], device=vlm.device)


def _chance(vlm: FrozenVlm, request: WriteRequest, images: Sequence[np.ndarray], ids: Tensor) -> Chance:
    try:
        prompt = vlm.prompt(request.turns, images)
    except ValueError as error:
        return Chance(None, str(error))
    state_1D = vlm.model.model(**vlm.reading(prompt), use_cache=False).last_hidden_state[:, -1]
    p_V = logits_of(state_1D, vlm.lm_head)[0].double().softmax(-1)
    probability = float(p_V[ids].sum())
    return Chance(probability) if math.isfinite(probability) else Chance(None, NO_NUMBERS)


def _chunk_log_probs(states_bD: Tensor, ids_b: Tensor, lm_head_VD: Tensor) -> Tensor:
    picked_b = (states_bD.float() * lm_head_VD[ids_b].float()).sum(-1)
    block = max(1, LOGITS_AT_ONCE[states_bD.device.type] // len(states_bD))
    parts = [_log_sum_exp(logits_of(states_bD, weight_vD)) for weight_vD in lm_head_VD.split(block)]
    # Two sums of the same products may differ in the last bit: a certain token is 0, not above it. NaN stays NaN.
    return (picked_b - torch.stack(parts).logsumexp(0)).clamp_max(0)


def sums_in_float32(states_BD: Tensor) -> bool:
    """Whether torch multiplies numbers of 16 bits here and sums and returns them in float32: on CUDA, since 2.8."""
    return states_BD.is_cuda and states_BD.dtype != torch.float32 and "dtype" in torch.ops.aten.mm.overloads()


def logits_of(states_BD: Tensor, weight_VD: Tensor) -> Tensor:
    """The products of the states' dtype, summed in float32: [B, V]."""
    product = _on_tensor_cores if sums_in_float32(states_BD) else _in_float32
    return product(states_BD, weight_VD)


def _on_tensor_cores(states_bD: Tensor, weight_vD: Tensor) -> Tensor:
    return torch.mm(states_bD, weight_vD.T, out_dtype=torch.float32)


def _in_float32(states_bD: Tensor, weight_vD: Tensor) -> Tensor:
    return states_bD.float() @ weight_vD.float().T


def _log_sum_exp(logits_bv: Tensor) -> Tensor:
    """[b], in place: torch.logsumexp makes two more copies of the logits."""
    peak_b1 = logits_bv.amax(-1, keepdim=True)
    return logits_bv.sub_(peak_b1).exp_().sum(-1).log_().add_(peak_b1.squeeze(-1))
