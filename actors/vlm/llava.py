"""LLaVA behind the `Vlm` interface: a CLIP or SigLIP vision tower of one image size, a projector, and a causal language model."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from actors.vlm.family import VlmBatch

# Tokens in one forward pass: on a CPU so few that the activations stay in its cache (docs/rewards/promptecho.md).
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 2**16}


class Llava:
    """A frozen LlavaForConditionalGeneration with its own tokenizer, chat template and image processor.

    The image processor is always the PIL one, so that the pixels do not depend on whether torchvision is installed.
    Left out: Pixtral vision towers, whose number of image tokens varies with the image.
    """

    def __init__(self, path_or_name: str, dtype: torch.dtype, device: torch.device) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(path_or_name, dtype=dtype).to(device)
        self.model.eval().requires_grad_(False)
        if self.model.config.vision_config.model_type == "pixtral":
            raise ValueError(
                f"{path_or_name} has a Pixtral vision tower: EchoRay's LLaVA reads CLIP and SigLIP towers only"
            )
        self.tokenizer = AutoTokenizer.from_pretrained(path_or_name)
        if self.tokenizer.chat_template is None:  # older models keep it in the processor's files
            self.tokenizer.chat_template = ProcessorMixin.get_processor_dict(path_or_name)[0].get("chat_template")
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"{path_or_name} has no chat template: put one in chat_template.jinja beside its tokenizer"
            )
        self.image_processor = AutoImageProcessor.from_pretrained(path_or_name, backend="pil")
        self.lm_head: Tensor = self.model.lm_head.weight
        self.image_tokens = self._count_image_tokens()
        self._prefixes: dict[tuple[str, bool], Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def batch(self, images_KHWC: np.ndarray | None, query: str, answer: str, include_eos: bool) -> VlmBatch:
        """See `Vlm.batch`: input_ids [K, L] = prefix + answer, pixel_values [K, 3, H, W]."""
        prefix_ids = self._prefix(query, images_KHWC is not None)
        answer_ids, tokens = self._encode_answer(answer, include_eos)
        row_ids = torch.cat([prefix_ids, answer_ids]).to(self.device)
        limit = self.model.config.text_config.max_position_embeddings
        if len(row_ids) > limit:
            raise ValueError(
                f"{len(row_ids)} tokens of image, query and answer exceed this VLM's {limit}: shorten the caption"
            )
        inputs = {"input_ids": row_ids[None]}
        if images_KHWC is not None:
            inputs = {"input_ids": row_ids.expand(len(images_KHWC), -1), "pixel_values": self._pixels(images_KHWC)}
        return VlmBatch(inputs, answer_ids.to(self.device), len(prefix_ids), tokens)

    @torch.inference_mode()
    def states(self, batch: VlmBatch) -> Tensor:
        """See `Vlm.states`: the model without its head, so that no logits are made for image, query or template."""
        num_rows, length = batch.inputs["input_ids"].shape
        rows = max(1, TOKENS_AT_ONCE[self.device.type] // length)
        first, last = batch.answer_start - 1, batch.answer_start - 1 + len(batch.answer_ids_T)
        parts = []
        for k in range(0, num_rows, rows):
            inputs = {name: tensor[k : k + rows] for name, tensor in batch.inputs.items()}
            parts.append(self.model.model(**inputs, use_cache=False).last_hidden_state[:, first:last])
        return torch.cat(parts)

    def _prefix(self, query: str, with_image: bool) -> Tensor:
        """Ids of the chat up to where the assistant begins to speak, the image's placeholder repeated; kept per query."""
        key = (query, with_image)
        if key not in self._prefixes:
            self._prefixes[key] = torch.tensor(self._encode_prefix(query, with_image))
        return self._prefixes[key]

    def _encode_prefix(self, query: str, with_image: bool) -> list[int]:
        found = [text for text in self.tokenizer.all_special_tokens if text in query]
        if found:
            raise ValueError(f"the query {query!r} contains {found[0]!r}, a special token of this VLM: take it out")
        content = [{"type": "image"}] * with_image + [{"type": "text", "text": query}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        bos = self.tokenizer.bos_token
        ids = self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids
        image_id = self.model.config.image_token_id
        if ids.count(image_id) != with_image:
            raise ValueError(
                f"this VLM's chat template writes {ids.count(image_id)} image placeholders for {int(with_image)} image: correct it"
            )
        return [i for token in ids for i in ([token] * self.image_tokens if token == image_id else [token])]

    def _encode_answer(self, answer: str, include_eos: bool) -> tuple[Tensor, tuple[str, ...]]:
        """Ids [T] and pieces of the answer alone, so that they cannot depend on the prefix; special tokens' text is plain text."""
        encoded = self.tokenizer(
            answer, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ids, ends = list(encoded.input_ids), [end for _, end in encoded.offset_mapping]
        if not answer.strip() or not ids:
            raise ValueError(
                f"the answer {answer!r} is empty: there is no likelihood of nothing, give a caption of a word or more"
            )
        if self.model.config.image_token_id in ids:
            raise ValueError(
                "this VLM's tokenizer reads its image placeholder inside a caption: mark it special in tokenizer.json"
            )
        pieces = [answer[start:end] for start, end in zip([0, *ends[:-1]], [*ends[:-1], len(answer)], strict=True)]
        if include_eos:
            if self.tokenizer.eos_token_id is None:
                raise ValueError("include_eos needs an end token, and this VLM's tokenizer names none: leave it false")
            ids, pieces = [*ids, self.tokenizer.eos_token_id], [*pieces, self.tokenizer.eos_token]
        return torch.tensor(ids), tuple(pieces)

    def _pixels(self, images_KHWC: np.ndarray) -> Tensor:
        # PIL images: of a bare array the processor would have to guess which axis holds the channels.
        images = [Image.fromarray(image_HWC) for image_HWC in images_KHWC]
        pixels = self.image_processor(images=images, return_tensors="pt").pixel_values
        return pixels.to(self.device, self.model.dtype)

    @torch.inference_mode()
    def _count_image_tokens(self) -> int:
        """Asked of the model itself: tower, feature selection and projector decide it together."""
        pixels = self._pixels(np.zeros((1, 32, 32, 3), np.uint8))
        return len(self.model.get_image_features(pixels).pooler_output[0])
