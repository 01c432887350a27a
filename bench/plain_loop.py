"""A step of training as anybody would write it with diffusers, peft and transformers: what bench.peers lays ours beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from actors.diffusion.families.sd3 import StableDiffusion3
from actors.messages import Adapter, Prompt
from actors.policy.advantages import group_advantages
from actors.policy.objectives.awm import log_prob, matching_error
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.objective import clipped_objective
from actors.reward.kinds.promptecho import QUERY
from pipelines.recipe.training import Recipe

AWAY = 0.01  # standard deviation of the adapters' B


class Plain:
    """The same step as a short script has it: no worker, no merging, no thought for what is kept or waited for."""

    def __init__(self, recipe: Recipe, prompts: Sequence[Prompt]) -> None:
        assert isinstance(recipe.objective, AwmOptions)
        self.rollout, self.prompts, self.objective = recipe.rollout, prompts, recipe.objective
        policy = recipe.policy
        self.pipeline: Any = StableDiffusion3Pipeline.from_pretrained(
            policy.model,
            dtype=torch.float32,
            text_encoder_3=None,
            tokenizer_3=None,
            image_encoder=None,
            feature_extractor=None,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.transformer = self.pipeline.transformer.requires_grad_(False)
        targets = list(StableDiffusion3.lora_targets[policy.lora_targets])
        self.transformer.add_adapter(
            LoraConfig(r=policy.lora_rank, lora_alpha=policy.lora_alpha, target_modules=targets)
        )
        self.trained = [weight for weight in self.transformer.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=policy.learning_rate, betas=policy.betas)
        self.judge = LlavaForConditionalGeneration.from_pretrained(
            recipe.rewards["reward"].judge, dtype=torch.float32
        ).eval()
        self.processor = LlavaProcessor.from_pretrained(recipe.rewards["reward"].judge)
        content = [{"type": "image"}, {"type": "text", "text": QUERY}]
        self.chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    def wear(self, adapter: Adapter) -> None:
        """Takes the weights of one of ours."""
        state = self.transformer.state_dict()
        for name, array in adapter.tensors.items():
            state[name.replace(".weight", ".default.weight")].copy_(torch.from_numpy(array))

    @torch.no_grad()
    def sample(self, noise_PKCHW: Tensor, groups_at_once: int) -> list[np.ndarray]:
        """All groups' images uint8 [K, H, W, 3]."""
        images: list[np.ndarray] = []
        for first in range(0, len(self.prompts), groups_at_once):
            part = slice(first, first + groups_at_once)
            drawn = self.pipeline(
                prompt=[prompt.caption for prompt in self.prompts[part]],
                num_images_per_prompt=self.rollout.group_size,
                latents=noise_PKCHW[part].flatten(0, 1),
                num_inference_steps=self.rollout.steps,
                guidance_scale=1.0,
                height=self.rollout.height,
                width=self.rollout.width,
                max_sequence_length=0,
                output_type="np",
            ).images
            images += np.split((drawn * 255).round().astype(np.uint8), len(self.prompts[part]))
        return images

    @torch.no_grad()
    def score(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Rewards [P, K], a forward with all logits for each group."""
        return np.array(
            [self._echo(images_KHWC, prompt) for images_KHWC, prompt in zip(images, self.prompts, strict=True)]
        )

    def _echo(self, images_KHWC: np.ndarray, prompt: Prompt) -> list[float]:
        inputs, answer = self._inputs(images_KHWC, prompt)
        log_probs = self.judge(**inputs).logits[:, :-1].log_softmax(-1)
        picked = log_probs.gather(2, inputs["input_ids"][:, 1:, None])[:, -answer:, 0]
        return picked.mean(1).exp().tolist()

    @torch.no_grad()
    def score_by_token(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Rewards [P, K], one forward of one image for each token of its caption."""
        rewards = []
        for images_KHWC, prompt in zip(images, self.prompts, strict=True):
            for image_HWC in images_KHWC:
                inputs, answer = self._inputs(image_HWC[None], prompt)
                ids, mask = inputs["input_ids"], inputs["attention_mask"]
                total = 0.0
                for end in range(ids.shape[1] - answer, ids.shape[1]):
                    shorter = {**inputs, "input_ids": ids[:, :end], "attention_mask": mask[:, :end]}
                    total += self.judge(**shorter).logits[0, -1].log_softmax(-1)[ids[0, end]].item()
                rewards.append(np.exp(total / answer))
        return np.reshape(rewards, (len(images), -1))

    def _inputs(self, images_KHWC: np.ndarray, prompt: Prompt) -> tuple[dict[str, Tensor], int]:
        """(the judge's inputs, tokens of the caption)."""
        count = len(self.processor.tokenizer(prompt.caption, add_special_tokens=False).input_ids)
        texts = [self.chat + prompt.caption] * len(images_KHWC)
        return dict(self.processor(images=list(images_KHWC), text=texts, return_tensors="pt")), count

    def update(self, latents_PKCHW: Tensor, rewards_PK: np.ndarray) -> None:
        """One step of advantage weighted matching on all images at once, with the reference's forward."""
        o, points = self.objective, self.objective.points
        clean = latents_PKCHW.flatten(0, 1).repeat_interleave(points, 0)
        noise, sigma = torch.randn_like(clean), torch.rand(len(clean))
        noised = (1 - sigma)[:, None, None, None] * clean + sigma[:, None, None, None] * noise
        captions = [prompt.caption for prompt in self.prompts for _ in range(self.rollout.group_size * points)]
        with torch.no_grad():
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                captions, None, None, do_classifier_free_guidance=False, max_sequence_length=0
            )
        given = {
            "hidden_states": noised,
            "timestep": sigma * 1000,
            "encoder_hidden_states": embeds,
            "pooled_projections": pooled,
        }
        with torch.no_grad():
            self.transformer.disable_adapters()
            reference = self.transformer(**given).sample
            self.transformer.enable_adapters()
        velocity = self.transformer(**given).sample
        log_probs = log_prob(matching_error(velocity, clean, noise), sigma, o.weighting, o.ghuber_power)
        advantages_B = torch.from_numpy(group_advantages(rewards_PK, "group").reshape(-1)).repeat_interleave(points)
        loss = clipped_objective(advantages_B, (log_probs - log_probs.detach()).exp(), o.clip_range).mean()
        loss = loss + o.kl_reference * (velocity - reference).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
