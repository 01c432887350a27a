"""Flow-GRPO against closed forms and against a slow version written from the paper's equations, one number at a time."""

import math

import pytest
import torch

from actors.diffusion.family import Conditions, Prompted
from actors.diffusion.sample import draw_latents, noise_of
from actors.diffusion.sde import step_log_prob, step_moments
from actors.policy.objectives.flow_grpo import FlowGrpo, window_starts
from pipelines.tables import FlowGrpo as FlowGrpoTable
from tests.actors.policy.linear import NONE, SHAPE, SIGMAS, LinearPolicy, batch, slope, wave

PROMPTED = Prompted(Conditions({"x": torch.zeros(4, 1)}))
STARTS = [0, 2, 5, 7]
WINDOW = 2
GOLDEN = {  # loss, d loss / d scale, d loss / d shift, first and last log-probability
    "sde": (-2.01729109, -3.92967472, -0.145414589, -1.31594626, -35.7582577),
    "cps": (-2.01528212, -0.203850529, -0.0180080221, -0.617411646, -0.877477749),
}


class LinearFamily(LinearPolicy):
    """The linear policy as an image model."""

    def guided_velocity(self, latents, sigma, prompted):
        return super().guided_velocity(latents, sigma, prompted).detach()


def settings(**changes):
    return FlowGrpoTable(**{"window": WINDOW, "kl_reference": 0.3, "clip_range": 0.05, **changes}).model_dump()


def inputs(**changes):
    """Paths that are waves, each sample with another window, old log-probabilities given."""
    path, old = wave(4, WINDOW + 1, *SHAPE, phase=0.1), wave(4, WINDOW, phase=0.5) / 20
    return batch(path=path, start=torch.tensor(STARTS), **({"log_prob": old} | changes))


def slow_step(kind, x, v, sigma, following, a):
    """(mean, standard deviation, s) of one number's step."""
    if kind == "cps":
        s = following * math.sin(a * math.pi / 2)
        mean = (1 - following) * (x - sigma * v) + math.sqrt(following**2 - s**2) * (x + (1 - sigma) * v)
        return mean, s, s
    dt = following - sigma
    s = a * math.sqrt(sigma / (1 - (SIGMAS[1].item() if sigma == 1 else sigma)))
    mean = x * (1 + s * s / (2 * sigma) * dt) + v * (1 + s * s * (1 - sigma) / (2 * sigma)) * dt
    return mean, s * math.sqrt(-dt), s


def slow(parameters, b, s):
    """(loss, log-probabilities by sample and step) of the linear policy with these numbers, by loops."""
    scale, shift = parameters
    policy_loss, kl, log_probs = [], [], []
    for i, start in enumerate(b.behaviour["start"].tolist()):
        advantage = max(-s["advantage_clip"], min(s["advantage_clip"], b.advantages_B[i].item()))
        for n in range(s["window"]):
            sigma, following = SIGMAS[start + n].item(), SIGMAS[start + n + 1].item()
            log_prob, distance, numbers = 0.0, 0.0, SHAPE[0] * SHAPE[1] * SHAPE[2]
            before, after = (
                b.behaviour["path"][i, n].flatten().tolist(),
                b.behaviour["path"][i, n + 1].flatten().tolist(),
            )
            for x, x_next in zip(before, after, strict=True):
                mean, deviation, small = slow_step(
                    s["step"], x, scale * x + shift * sigma, sigma, following, s["noise_level"]
                )
                anchor = slow_step(s["step"], x, NONE * x, sigma, following, s["noise_level"])[0]
                distance += (mean - anchor) ** 2 / (2 * small**2) / numbers
                if s["step"] == "cps":
                    log_prob -= (x_next - mean) ** 2 / numbers
                else:
                    density = math.exp(-((x_next - mean) ** 2) / (2 * deviation**2)) / (
                        deviation * math.sqrt(2 * math.pi)
                    )
                    log_prob += math.log(density) / numbers
            ratio = math.exp(log_prob - b.behaviour["log_prob"][i, n].item())
            clipped = max(1 - s["clip_range"], min(1 + s["clip_range"], ratio))
            policy_loss.append(max(-advantage * ratio, -advantage * clipped))
            kl.append(distance)
            log_probs.append(log_prob)
    return sum(policy_loss) / len(policy_loss) + s["kl_reference"] * sum(kl) / len(kl), log_probs


def old_near(kind):
    """Old log-probabilities some hundredths beside the policy's own, so that some ratios are clipped and some are not."""
    s = settings(step=kind)
    own = torch.tensor(slow([0.7, -0.2], inputs(), s)[1], dtype=torch.float64).view(4, WINDOW)
    return own + wave(4, WINDOW, phase=0.5) / 10


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_loss_gradient_and_log_probs_equal_the_slow_version_and_the_golden_numbers(kind):
    """The golden numbers stand in docs/objectives/flow_grpo.md."""
    s, b = settings(step=kind), inputs(log_prob=old_near(kind))
    policy = LinearPolicy()
    loss = FlowGrpo(s).loss(policy, b)
    expected, log_probs = slow([0.7, -0.2], b, s)
    assert 0 < loss.clipped.double().mean() < 1
    assert loss.total.item() == pytest.approx(expected, rel=1e-10)
    gradient = [g.item() for g in torch.autograd.grad(loss.total, policy.parameters())]
    assert gradient == pytest.approx(slope(lambda p: slow(p, b, s)[0], [0.7, -0.2]), rel=1e-6)
    measured = loss.ratio.log().flatten() + b.behaviour["log_prob"].flatten()
    assert measured.tolist() == pytest.approx(log_probs, rel=1e-10)
    golden = [loss.total.item(), *gradient, measured[0].item(), measured[-1].item()]
    assert golden == pytest.approx(GOLDEN[kind], rel=1e-6)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_on_policy_the_ratio_is_one_and_zero_advantage_gives_zero_gradient(kind):
    policy, b = LinearPolicy(), inputs()
    b.behaviour.pop("log_prob")
    loss = FlowGrpo(settings(step=kind, kl_reference=0.0)).loss(policy, b)
    assert (loss.ratio == 1).all()
    assert all(g.item() != 0 for g in torch.autograd.grad(loss.total, policy.parameters()))
    still = batch(advantages=torch.zeros(4, dtype=torch.float64), **b.behaviour)
    loss = FlowGrpo(settings(step=kind, kl_reference=0.0)).loss(policy, still)
    assert all(g.item() == 0 for g in torch.autograd.grad(loss.total, policy.parameters()))


def test_log_prob_at_the_mean_is_that_of_a_normal_density():
    x, v = wave(1, *SHAPE, phase=0.0), wave(1, *SHAPE, phase=1.0)
    sigma, following = SIGMAS[3:4], SIGMAS[4:5]
    mean, deviation, s = step_moments("sde", x, v, sigma, following, SIGMAS[1], 0.7)
    expected = -math.log(s.item() * math.sqrt(0.1) * math.sqrt(2 * math.pi))
    assert step_log_prob("sde", mean, mean, deviation).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_steps_keep_the_marginals_of_the_flow(kind):
    """Data and noise standard normal: x_sigma has the variance (1 - sigma)^2 + sigma^2, and the velocity is known exactly."""
    count, sigmas = 20_000, torch.linspace(1, 0, 401, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((count, 1, 1, 1), generator=generator, dtype=torch.float64)
    for i in range(300):
        sigma, following = sigmas[i].expand(count), sigmas[i + 1].expand(count)
        variance = (1 - sigmas[i]) ** 2 + sigmas[i] ** 2
        velocity = x * (2 * sigmas[i] - 1) / variance
        noise_level = 0.7 if kind == "sde" else 0.1
        mean, deviation, _ = step_moments(kind, x, velocity, sigma, following, sigmas[1], noise_level)
        x = mean + deviation * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    expected = (1 - sigmas[300]) ** 2 + sigmas[300] ** 2
    assert x.var().item() == pytest.approx(expected.item(), rel=0.04)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_what_was_drawn_is_replayed_to_the_same_log_prob(kind):
    objective, family = FlowGrpo(settings(step=kind, kl_reference=0.0)), LinearFamily()
    noise = torch.stack([noise_of(seed, SHAPE) for seed in range(4)])
    sigmas = SIGMAS.float()
    latents, behaviour = objective.draw(family, noise, sigmas, PROMPTED, (5, 6, 7, 8))
    drawn = batch(**behaviour)
    loss = objective.loss(LinearPolicy(), drawn)
    torch.testing.assert_close(loss.ratio, torch.ones(4, WINDOW, dtype=torch.float64), atol=1e-5, rtol=0)
    assert behaviour["path"].shape == (4, WINDOW + 1, *SHAPE)
    again, _ = objective.draw(family, noise, sigmas, PROMPTED, (5, 6, 7, 8))
    assert torch.equal(latents, again)
    other, _ = objective.draw(family, noise, sigmas, PROMPTED, (5, 6, 7, 9))
    assert torch.equal(latents[:3], other[:3])
    assert not torch.equal(latents[3], other[3])


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_outside_of_the_window_the_path_is_the_odes(kind):
    """With hardly any noise the whole path is; and up to the window it is whatever the noise."""
    noise = torch.stack([noise_of(seed, SHAPE) for seed in range(4)])
    family, sigmas, seeds = LinearFamily(), SIGMAS.float(), (5, 6, 7, 8)
    ode = draw_latents(family, noise, sigmas, PROMPTED)
    quiet, _ = FlowGrpo(settings(step=kind, noise_level=1e-6)).draw(family, noise, sigmas, PROMPTED, seeds)
    torch.testing.assert_close(quiet, ode, atol=1e-4, rtol=0)
    s = settings(step=kind)
    noisy, behaviour = FlowGrpo(s).draw(family, noise, sigmas, PROMPTED, seeds)
    assert ((noisy - ode).abs().flatten(1).amax(1) > 1e-2).all()
    for i, start in enumerate(behaviour["start"].tolist()):
        before = draw_latents(family, noise[i : i + 1], sigmas[: start + 1], PROMPTED)
        after = draw_latents(family, behaviour["path"][i : i + 1, -1], sigmas[start + WINDOW :], PROMPTED)
        torch.testing.assert_close(behaviour["path"][i, 0], before[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(noisy[i], after[0], atol=1e-5, rtol=0)


def test_windows_cover_the_path_but_its_last_step():
    starts = window_starts(tuple(range(500)), steps=10, fraction=0.99, window=2)
    assert set(starts) == set(range(8))
    assert set(window_starts(tuple(range(500)), steps=10, fraction=0.5, window=2)) == set(range(4))
    assert set(window_starts((1, 2, 3), steps=10, fraction=1.0, window=9)) == {0}


def test_only_what_was_measured_is_kept():
    noise = torch.stack([noise_of(seed, SHAPE) for seed in range(4)])
    for behaviour, kept in (("current", {"path", "start"}), ("measured", {"path", "start", "log_prob"})):
        objective = FlowGrpo(settings(behaviour=behaviour))
        assert objective.draw(LinearFamily(), noise, SIGMAS.float(), PROMPTED, (1, 2, 3, 4))[1].keys() == kept
