"""A policy of two numbers, and inputs given by formulas, so that losses and gradients can be had by independent means."""

import torch

from actors.diffusion.families.conditions import Conditions, Prompted
from actors.policy.objectives.objective import Batch

SHAPE = (3, 2, 2)
SIGMAS = torch.linspace(1, 0, 11, dtype=torch.float64)
NONE, EMA = 0.9, 0.75  # the reference's velocity is 0.9 x, the moving average's 0.75 x


class LinearPolicy:
    """velocity = scale * latents + shift * sigma, without regard to captions or guidance."""

    def __init__(self, scale=0.7, shift=-0.2) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        self.shift = torch.tensor(shift, dtype=torch.float64, requires_grad=True)

    def parameters(self):
        return [self.scale, self.shift]

    def velocity(self, latents, sigma, conditions, adapter="trained"):
        if adapter != "trained":
            return {"none": NONE, "ema": EMA}[adapter] * latents
        return self.scale * latents + self.shift * sigma.view(-1, 1, 1, 1)

    def guided_velocity(self, latents, sigma, prompted, adapter="trained"):
        return self.velocity(latents, sigma, prompted.conditions, adapter)


def wave(*shape: int, phase: float) -> torch.Tensor:
    """sin(1.7 n + phase) over the entries n = 0, 1, ... in row-major order, float64."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(1.7 * count + phase).reshape(shape)


def batch(count=4, advantages=None, **behaviour) -> Batch:
    """Samples 0, 1, ... with latents wave(phase 0.3) and advantages from -2 to 7."""
    if advantages is None:
        advantages = torch.linspace(-2, 7, count, dtype=torch.float64)
    prompted = Prompted(Conditions({"x": torch.zeros(count, 1)}))
    return Batch(wave(count, *SHAPE, phase=0.3), prompted, advantages, tuple(range(count)), SIGMAS, behaviour)


def slope(function, parameters, step=1e-5):
    """The gradient of a function of a list of numbers by central differences."""
    gradient = []
    for i, value in enumerate(parameters):
        above, below = [*parameters], [*parameters]
        above[i], below[i] = value + step, value - step
        gradient.append((function(above) - function(below)) / (2 * step))
    return gradient
