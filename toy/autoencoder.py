"""Trains the image model's autoencoder: latents are whitened principal components of cells, decoded to clean things.

Axes: B images, C channels, H rows, W columns (cells of the grid in latents, pixels in images).
"""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderTiny

from toy.world import CELL, GRID

LATENT_STD = 1 / 3  # of the autoencoder's own latents: its decoder squashes what is beyond +-3
ENCODER_WIDTH, DECODER_WIDTH = 48, 32
BATCH = 24


Drawings = Callable[[int, np.random.Generator], np.ndarray]  # so many clean ones: uint8 [B, H, W, 3]


def make_autoencoder(channels: int) -> AutoencoderTiny:
    """An untrained autoencoder, 32 x 32 x 3 to 4 x 4 x channels. Its encoder is linear."""
    return AutoencoderTiny(
        encoder_block_out_channels=(ENCODER_WIDTH,) * 4,
        decoder_block_out_channels=(DECODER_WIDTH,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=(3, 2, 1, 1),  # without the last two it cannot draw inside a cell
        latent_channels=channels,
        scaling_factor=1 / LATENT_STD,
    )


def to_unit(images_BHWC: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


class Whitening:
    """The principal components of clean cells, scaled to unit variance: what the encoder is trained to give."""

    def __init__(self, images_BCHW: torch.Tensor, channels: int):
        cells = self._cells(images_BCHW).flatten(0, 2)
        self.mean = cells.mean(0)
        _, scales, components = torch.pca_lowrank(cells - self.mean, q=channels, niter=8)
        self.project = components / (scales / len(cells) ** 0.5)

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1] -> latents float32 [B, channels, GRID, GRID] of unit variance."""
        return ((self._cells(images_BCHW) - self.mean) @ self.project).permute(0, 3, 1, 2)

    @staticmethod
    def _cells(images_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels by cell: [B, GRID, GRID, 3 * CELL * CELL]."""
        cells = images_BCHW.unflatten(3, (GRID, CELL)).unflatten(2, (GRID, CELL))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3)


def spoil(latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Latents as a generator leaves them: up to a third of another image mixed into each cell, and noise."""
    mix = 0.35 * torch.rand(len(latents_BCHW), 1, GRID, GRID) * (torch.rand(len(latents_BCHW), 1, GRID, GRID) < 0.5)
    noise = 0.4 * torch.rand(len(latents_BCHW), 1, 1, 1) * torch.randn_like(latents_BCHW)
    return (1 - mix) * latents_BCHW + mix * latents_BCHW.flip(0) + noise


def train(
    images_BHWC: np.ndarray,
    channels: int,
    crowded: Drawings,
    steps: int,
    seed: int,
    report: Callable[[float, str], None],
) -> AutoencoderTiny:
    """Fits the encoder to whitened components of uint8 images, the decoder to crowded drawings from spoiled latents."""
    torch.manual_seed(seed)
    whiten, vae = Whitening(to_unit(images_BHWC), channels), make_autoencoder(channels)
    drawings_BCHW = to_unit(crowded(100 * BATCH, np.random.default_rng(seed)))
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 50), pct_start=0.1)
    for step in range(steps):
        clean = drawings_BCHW[torch.randint(len(drawings_BCHW), (BATCH,))]
        target = whiten(clean)
        encoder_loss = (vae.encoder(clean) / LATENT_STD - target).square().mean()
        decoder_loss = (vae.decoder(spoil(target) * LATENT_STD) - clean).square().mean()
        optimizer.zero_grad()
        (encoder_loss + 10 * decoder_loss).backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            report(
                step / steps,
                f"autoencoder: latents off by {encoder_loss.item():.4f}, pixels by {decoder_loss.item():.4f}",
            )
    return vae.eval()
