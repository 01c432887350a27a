"""DiffusionNFT against closed forms and against a slow version written from the paper's equations, one number at a time."""

import pytest
import torch

from actors.policy.objectives.nft import Nft, old_decay, optimality
from actors.policy.objectives.nft_options import NftOptions
from actors.policy.objectives.timesteps import training_pairs
from tests.actors.policy.linear import EMA, NONE, SHAPE, SIGMAS, LinearPolicy, batch, slope

TIMESTEPS = 3
GOLDEN = {1.0: (3.50767107, -1.20970644, -1.1981764), 0.1: (33.8329685, -0.985843958, -0.557278511)}  # by beta


def settings(**changes):
    return NftOptions(**{"timesteps_per_sample": TIMESTEPS, "kl_reference": 0.3, **changes})


def pairs_of(b, s):
    return training_pairs(
        b.sample_seeds, SHAPE, SIGMAS, kind=s.timesteps, count=s.timesteps_per_sample, shift=s.timestep_shift,
        lowest=s.timestep_min, fraction=s.timestep_fraction,
    )  # fmt: skip


def slow(parameters, frozen, b, s):
    """The loss of the linear policy with these numbers, by loops; the weights w are those of the `frozen` numbers."""
    total, kl, points, numbers = 0.0, 0.0, 0, SHAPE[0] * SHAPE[1] * SHAPE[2]
    sigma_BN, noise_BNCHW = pairs_of(b, s)

    def errors(values, i, n, sign):
        t, squares, weight, distance = sigma_BN[i, n].item(), 0.0, 0.0, 0.0
        for x0, noise in zip(b.latents_BCHW[i].flatten().tolist(), noise_BNCHW[i, n].flatten().tolist(), strict=True):
            x = (1 - t) * x0 + t * noise
            v, old = values[0] * x + values[1] * t, EMA * x
            mixed = s.beta * v + (1 - s.beta) * old if sign > 0 else (1 + s.beta) * old - s.beta * v
            error = x - t * mixed - x0
            squares, weight = squares + error**2 / numbers, weight + abs(error) / numbers
            distance += (v - NONE * x) ** 2 / numbers
        return squares, max(weight, 1e-5), distance

    for i in range(len(b.sample_seeds)):
        clip = s.advantage_clip
        r = max(-clip, min(clip, b.advantages_B[i].item())) / clip / 2 + 0.5
        for n in range(TIMESTEPS):
            for sign, share in ((1, r), (-1, 1 - r)):
                squares, _, distance = errors(parameters, i, n, sign)
                total += clip * share * squares / errors(frozen, i, n, sign)[1] / s.beta
            kl, points = kl + distance, points + 1
    return total / points + s.kl_reference * kl / points


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_loss_and_gradient_equal_the_slow_version_and_the_golden_numbers(beta):
    """The golden numbers (loss, d loss / d scale, d loss / d shift) stand in docs/objectives/nft.md."""
    s, b, policy, numbers = settings(beta=beta), batch(), LinearPolicy(), [0.7, -0.2]
    loss = Nft(s).loss(policy, b)
    assert loss.total.item() == pytest.approx(slow(numbers, numbers, b, s), rel=1e-10)
    gradient = [g.item() for g in torch.autograd.grad(loss.total, policy.parameters())]
    assert gradient == pytest.approx(slope(lambda p: slow(p, numbers, b, s), numbers), rel=1e-6)
    assert [loss.total.item(), *gradient] == pytest.approx(GOLDEN[beta], rel=1e-6)


def test_the_best_image_is_matched_as_plain_flow_matching():
    """r = 1, beta = 1: v+ is the trained velocity, and the old one has no part in the gradient."""
    b, policy = batch(advantages=torch.full((4,), 9.0, dtype=torch.float64)), LinearPolicy()
    s = settings(kl_reference=0.0)
    loss = Nft(s).loss(policy, b)
    sigma_BN, noise_BNCHW = pairs_of(b, s)
    t = sigma_BN[..., None, None, None].double()
    x = (1 - t) * b.latents_BCHW[:, None] + t * noise_BNCHW
    v = policy.velocity(x.flatten(0, 1), sigma_BN.flatten().double(), None).view_as(x)
    error = (t * (noise_BNCHW - b.latents_BCHW[:, None] - v)).flatten(2)  # t (v* - v) = x0_hat - x0
    expected = 5 * (error.square().mean(2) / error.detach().abs().mean(2)).mean()
    torch.testing.assert_close(loss.total, expected)
    for mine, theirs in zip(
        torch.autograd.grad(loss.total, policy.parameters()),
        torch.autograd.grad(expected, policy.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_where_trained_is_old_an_average_image_gives_no_gradient(beta):
    policy = LinearPolicy(scale=EMA, shift=0.0)
    b = batch(advantages=torch.zeros(4, dtype=torch.float64))
    loss = Nft(settings(beta=beta, kl_reference=0.0)).loss(policy, b)
    assert loss.terms["old_distance"] == 0
    assert [g.item() for g in torch.autograd.grad(loss.total, policy.parameters())] == pytest.approx([0, 0], abs=1e-12)


def test_what_the_worker_measured_stands_in_for_the_old_policy():
    b, s = batch(), settings()
    expected = Nft(s).loss(LinearPolicy(), b)
    sigma_BN, noise_BNCHW = pairs_of(b, s)
    t = sigma_BN[..., None, None, None].double()
    measured = EMA * ((1 - t) * b.latents_BCHW[:, None] + t * noise_BNCHW)
    asked = []

    class NoOld(LinearPolicy):
        def velocity(self, latents, sigma, conditions, adapter="trained"):
            asked.append(adapter)
            return super().velocity(latents, sigma, conditions, adapter)

    torch.testing.assert_close(Nft(s).loss(NoOld(), batch(velocity=measured)).total, expected.total)
    assert asked == ["none", "trained"]


def test_optimality_is_between_0_and_1():
    advantages = torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0, 9.0])
    torch.testing.assert_close(optimality(advantages, 5.0), torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0, 1.0]))


def test_schedules_of_the_old_policy():
    """The authors' types 1 and 2."""
    assert [old_decay(step, 0, 0.001, 0.5) for step in (0, 1, 100, 500, 900)] == pytest.approx(
        [0, 0.001, 0.1, 0.5, 0.5]
    )
    assert [old_decay(step, 75, 0.0075, 0.999) for step in (1, 75, 76, 175, 300)] == pytest.approx(
        [0, 0, 0.0075, 0.75, 0.999]
    )
    assert Nft(settings()).ema_decay(100) == pytest.approx(0.1)
