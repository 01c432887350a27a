"""Flow-GRPO against closed forms and against a slow version written from the paper's equations, one number at a time."""

import math
from dataclasses import replace

import pytest
import torch

from actors.diffusion.families.conditions import Conditions, Prompted
from actors.diffusion.sample import draw_latents, noise_of
from actors.diffusion.sde import step_log_prob, step_moments
from actors.policy.objectives.flow_grpo import FlowGrpo, window_starts
from actors.policy.objectives.flow_grpo_options import FlowGrpoOptions
from actors.policy.objectives.flow_grpo_steps import normalised_log_ratio, step_weights
from actors.seeds import seed_of
from tests.actors.policy.linear import NONE, SHAPE, SIGMAS, LinearPolicy, batch, slope, wave

PROMPTED = Prompted(Conditions({"x": torch.zeros(4, 1)}))
STARTS = [0, 2, 5, 7]
WINDOW = 2
USABLE = 9  # steps of SIGMAS that may be trained
GOLDEN = {  # loss, d loss / d scale, d loss / d shift, first and last log-probability
    "sde": (-2.01729109, -3.92967472, -0.145414589, -1.31594626, -35.7582577),
    "cps": (-2.01528212, -0.203850529, -0.0180080221, -0.617411646, -0.877477749),
}
GOLDEN_OPTIONS = {  # step, step_weights, ratio: loss, d loss / d scale, d loss / d shift, first and last log ratio
    ("sde", "noise", "plain"): (-0.385671432, -1.56717839, -0.0632346667, -0.0479425539, 0.0165604175),
    ("sde", "even", "plain"): (-0.251943009, -1.47742458, -0.0612124385, -0.0479425539, 0.0165604175),
    ("cps", "even", "plain"): (-3.84817414, -0.367746118, -0.0223832216, -0.0479425539, 0.0165604175),
    ("sde", "equal", "normalised"): (-1.95943847, -0.00592734879, -0.0112628393, 0.0414651577, -0.180232999),
    ("sde", "even", "normalised"): (-1.84535662, -0.00486725194, -0.00995001778, 0.0414651577, -0.180232999),
    ("cps", "noise", "normalised"): (-0.267663189, -0.00255280769, -0.0351511178, 0.151663368, -0.186388945),
}


class LinearFamily(LinearPolicy):
    """The linear policy as an image model."""

    def guided_velocity(self, latents, sigma, prompted):
        return super().guided_velocity(latents, sigma, prompted).detach()


def settings(**changes):
    return FlowGrpoOptions(**{"window": WINDOW, "kl_reference": 0.3, "clip_range": 0.05, **changes})


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


def slow_weights(s):
    """The factor of every step that may be trained: from the step's own noise, or from the slope of its mean by a difference."""
    factors = []
    for n in range(USABLE):
        at = (s.step, 0.3, 0.5, SIGMAS[n].item(), SIGMAS[n + 1].item(), s.noise_level)
        mean, deviation, _ = slow_step(*at)
        slope = abs(slow_step(*at[:2], 1.5, *at[3:])[0] - mean)
        moves = {"sde": slope / deviation, "cps": 2 * deviation * slope}[s.step]
        moves = slope if s.ratio == "normalised" else moves
        factors.append({"equal": 1.0, "noise": deviation, "even": 1 / moves}[s.step_weights])
    return [factor * USABLE / sum(factors) for factor in factors]


def slow(parameters, b, s):
    """(loss, by sample and step the log-probabilities, or with the normalised ratio its logarithms) of the linear policy, by loops."""
    scale, shift = parameters
    policy_loss, kl, log_probs, weights = [], [], [], slow_weights(s)
    for i, start in enumerate(b.behaviour["start"].tolist()):
        advantage = max(-s.advantage_clip, min(s.advantage_clip, b.advantages_B[i].item()))
        for n in range(s.window):
            sigma, following = SIGMAS[start + n].item(), SIGMAS[start + n + 1].item()
            log_prob, log_ratio, distance, numbers = 0.0, 0.0, 0.0, SHAPE[0] * SHAPE[1] * SHAPE[2]
            drawn = noise_of(seed_of(b.sample_seeds[i], "steps"), (WINDOW, *SHAPE))[n].flatten().tolist()
            before, after = (
                b.behaviour["path"][i, n].flatten().tolist(),
                b.behaviour["path"][i, n + 1].flatten().tolist(),
            )
            for x, x_next, noise in zip(before, after, drawn, strict=True):
                mean, deviation, small = slow_step(
                    s.step, x, scale * x + shift * sigma, sigma, following, s.noise_level
                )
                anchor = slow_step(s.step, x, NONE * x, sigma, following, s.noise_level)[0]
                distance += (mean - anchor) ** 2 / (2 * small**2) / numbers
                log_ratio += noise * (mean - (x_next - deviation * noise)) / numbers
                if s.step == "cps":
                    log_prob -= (x_next - mean) ** 2 / numbers
                else:
                    density = math.exp(-((x_next - mean) ** 2) / (2 * deviation**2)) / (
                        deviation * math.sqrt(2 * math.pi)
                    )
                    log_prob += math.log(density) / numbers
            if s.ratio == "plain":
                log_ratio = log_prob - b.behaviour["log_prob"][i, n].item()
            ratio = math.exp(log_ratio)
            clipped = max(1 - s.clip_range, min(1 + s.clip_range, ratio))
            policy_loss.append(weights[start + n] * max(-advantage * ratio, -advantage * clipped))
            kl.append(distance)
            log_probs.append(log_prob if s.ratio == "plain" else log_ratio)
    return sum(policy_loss) / len(policy_loss) + s.kl_reference * sum(kl) / len(kl), log_probs


def old_near(kind):
    """Old log-probabilities some hundredths beside the policy's own, so that some ratios are clipped and some are not."""
    s = settings(step=kind)
    own = torch.tensor(slow([0.7, -0.2], inputs(), s)[1], dtype=torch.float64).view(4, WINDOW)
    return own + wave(4, WINDOW, phase=0.5) / 10


def beside_the_slow_version(s, b):
    """(loss, its total and gradient, the slow version's logs): the two agree, and some ratios are clipped and some are not."""
    policy = LinearPolicy()
    loss = FlowGrpo(s).loss(policy, b)
    expected, logs = slow([0.7, -0.2], b, s)
    assert 0 < loss.clipped.double().mean() < 1
    assert loss.total.item() == pytest.approx(expected, rel=1e-10)
    gradient = [g.item() for g in torch.autograd.grad(loss.total, policy.parameters())]
    assert gradient == pytest.approx(slope(lambda p: slow(p, b, s)[0], [0.7, -0.2]), rel=1e-6)
    return loss, [loss.total.item(), *gradient], logs


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_loss_gradient_and_log_probs_equal_the_slow_version_and_the_golden_numbers(kind):
    """The golden numbers stand in docs/objectives/flow_grpo.md."""
    s, b = settings(step=kind), inputs(log_prob=old_near(kind))
    loss, found, log_probs = beside_the_slow_version(s, b)
    measured = loss.ratio.log().flatten() + b.behaviour["log_prob"].flatten()
    assert measured.tolist() == pytest.approx(log_probs, rel=1e-10)
    assert [*found, measured[0].item(), measured[-1].item()] == pytest.approx(GOLDEN[kind], rel=1e-6)


@pytest.mark.parametrize("options", GOLDEN_OPTIONS)
def test_weighted_steps_and_normalised_ratios_equal_the_slow_version_and_the_golden_numbers(options):
    """The golden numbers stand in docs/objectives/flow_grpo.md."""
    kind, weights, ratio = options
    clip_range = {"plain": 0.05, "normalised": 0.18}[ratio]
    s = settings(step=kind, step_weights=weights, ratio=ratio, clip_range=clip_range)
    b = inputs(log_prob=old_near(kind))
    loss, found, logs = beside_the_slow_version(s, b)
    log_ratio = loss.ratio.log().flatten()
    if ratio == "plain":
        logs = [log - old for log, old in zip(logs, b.behaviour["log_prob"].flatten().tolist(), strict=True)]
    assert log_ratio.tolist() == pytest.approx(logs, rel=1e-10)
    assert [*found, log_ratio[0].item(), log_ratio[-1].item()] == pytest.approx(GOLDEN_OPTIONS[options], rel=1e-6)


class FreePolicy:
    """The same velocity everywhere, one number for each of the latent's: its gradient is what a step pulls with."""

    def __init__(self):
        self.free = wave(*SHAPE, phase=1.0).requires_grad_()

    def guided_velocity(self, latents, sigma, prompted, adapter="trained"):
        return self.free.expand(latents.shape)


def pull(start, **changes):
    """The gradient of one sample's one step, drawn on policy with the same noise wherever it lies."""
    s, policy = settings(window=1, kl_reference=0.0, behaviour="current", **changes), FreePolicy()
    x, sigma, following = wave(1, *SHAPE, phase=0.1), SIGMAS[start : start + 1], SIGMAS[start + 1 : start + 2]
    mean, deviation, _ = step_moments(s.step, x, policy.free.detach()[None], sigma, following, SIGMAS[1], s.noise_level)
    path = torch.stack([x, mean + deviation * wave(1, *SHAPE, phase=2.0)], 1)
    drawn = batch(1, advantages=torch.ones(1, dtype=torch.float64), path=path, start=torch.tensor([start]))
    return torch.autograd.grad(FlowGrpo(s).loss(policy, drawn).total, [policy.free])[0].norm().item()


@pytest.mark.parametrize("kind", ["sde", "cps"])
@pytest.mark.parametrize("ratio", ["plain", "normalised"])
def test_with_even_weights_every_step_pulls_alike(kind, ratio):
    pulls = [pull(start, step=kind, ratio=ratio, step_weights="even") for start in range(USABLE)]
    assert pulls == pytest.approx([pulls[0]] * USABLE, rel=1e-9)
    equal = [pull(start, step=kind, ratio=ratio) for start in range(USABLE)]
    assert max(equal) > 1.2 * min(equal)


def test_noise_weights_undo_the_division_by_the_noise():
    """What is left of a step's pull is its length alone, as with the normalised ratio; the first step lacks the factor 1 + a^2 / 2."""
    for changes in ({"step_weights": "noise"}, {"ratio": "normalised"}):
        pulls = [pull(start, step="sde", noise_level=0.7, **changes) for start in range(USABLE)]
        assert pulls[1:] == pytest.approx([pulls[1]] * (USABLE - 1), rel=1e-9)
        assert pulls[1] == pytest.approx(pulls[0] * (1 + 0.7**2 / 2), rel=1e-9)


def test_step_weights_have_their_closed_form_and_the_mean_one():
    sigmas = torch.tensor([1.0, 0.9, 0.6, 0.2, 0.0], dtype=torch.float64)
    noise = step_weights("noise", "sde", "plain", sigmas, range(3), 0.7)
    deviations = torch.tensor([1.0, math.sqrt(9 * 0.3), math.sqrt(1.5 * 0.4)], dtype=torch.float64)
    torch.testing.assert_close(noise, deviations / deviations.mean())
    even = step_weights("even", "sde", "normalised", sigmas, range(3), 0.7)
    inverse = 1 / torch.tensor([0.1, 0.3 * 1.245, 0.4 * 1.245], dtype=torch.float64)
    torch.testing.assert_close(even, inverse / inverse.mean())
    assert (step_weights("equal", "cps", "plain", sigmas, range(3), 0.7) == 1).all()


def test_normalised_ratios_are_centred_and_spread_alike_at_steps_of_different_noise():
    """The plain ones lie below zero by |difference|^2 / (2 D^2) and spread the more the less noise the step has."""
    count, generator = 20_000, torch.Generator().manual_seed(0)
    noise = torch.randn((count, *SHAPE), generator=generator, dtype=torch.float64)
    old = torch.zeros_like(noise)
    mean = old + 0.1 * wave(*SHAPE, phase=0.5)
    moved = mean[0].square().mean().item()
    spreads = []
    for deviation in (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (0.05, 0.8)):
        drawn = old + deviation * noise
        normalised = normalised_log_ratio(drawn, mean, old, deviation)
        plain = step_log_prob("sde", drawn, mean, deviation) - step_log_prob("sde", drawn, old, deviation)
        assert plain.mean().item() == pytest.approx(-moved / (2 * deviation.item() ** 2), rel=0.05, abs=1e-3)
        torch.testing.assert_close(normalised, (plain + moved / (2 * deviation.item() ** 2)) * deviation.item())
        assert abs(normalised.mean().item()) < 4 * normalised.std().item() / math.sqrt(count)
        spreads.append((normalised.std().item(), plain.std().item()))
    assert spreads[0][0] == pytest.approx(spreads[1][0], rel=1e-9)
    assert spreads[0][1] == pytest.approx(16 * spreads[1][1], rel=1e-9)


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
@pytest.mark.parametrize("ratio", ["plain", "normalised"])
def test_what_was_drawn_is_replayed_to_the_same_log_prob(kind, ratio):
    """With the normalised ratio the learner draws the noise anew from the samples' seeds: the old mean is where it led from."""
    objective, family = FlowGrpo(settings(step=kind, ratio=ratio, kl_reference=0.0)), LinearFamily()
    noise = torch.stack([noise_of(seed, SHAPE) for seed in range(4)])
    sigmas = SIGMAS.float()
    latents, behaviour = objective.draw(family, noise, sigmas, PROMPTED, (5, 6, 7, 8))
    drawn = replace(batch(**behaviour), sample_seeds=(5, 6, 7, 8))
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
    seeds = tuple(range(500))
    assert set(
        window_starts(seeds, settings(timestep_start=0.0, timestep_fraction=0.99).trainable(10), window=2)
    ) == set(range(8))
    assert set(
        window_starts(seeds, settings(timestep_start=0.0, timestep_fraction=0.5).trainable(10), window=2)
    ) == set(range(4))
    assert set(window_starts(seeds, settings(timestep_start=0.0, timestep_fraction=1.0).trainable(10), window=9)) == {0}
    assert set(window_starts(seeds, settings(timestep_start=0.3, timestep_fraction=0.7).trainable(10), window=2)) == {
        3,
        4,
        5,
    }
    assert set(window_starts(seeds, settings(timestep_start=0.25, timestep_fraction=0.5).trainable(8), window=2)) == {2}


def test_weights_have_the_mean_one_over_the_steps_that_may_be_trained():
    """Each step of the middle has the weight of the middle's own mean, wherever its sample's window lies."""
    sigmas = SIGMAS.float()
    whole, middle = (step_weights("noise", "sde", "plain", sigmas, steps, 0.7) for steps in (range(9), range(3, 7)))
    torch.testing.assert_close(middle, whole[3:7] / whole[3:7].mean())
    s = settings(window=2, timestep_start=0.3, timestep_fraction=0.7, step_weights="noise", kl_reference=0.0)
    for start in (3, 5):
        path = wave(1, 3, *SHAPE, phase=0.1)
        drawn = batch(1, path=path, start=torch.tensor([start]), log_prob=torch.zeros(1, 2, dtype=torch.float64))
        one, other = (
            FlowGrpo(changed).loss(LinearPolicy(), drawn)
            for changed in (s, s.model_copy(update={"step_weights": "equal"}))
        )
        assert (one.ratio == other.ratio).all()
        ratio, clipped = other.ratio, other.ratio.clamp(1 - s.clip_range, 1 + s.clip_range)
        advantage = drawn.advantages_B[:, None]
        terms = torch.maximum(-advantage * ratio, -advantage * clipped)
        assert one.total.item() == pytest.approx((middle[start - 3 : start - 1] * terms).mean().item(), rel=1e-6)


def test_only_what_was_measured_is_kept():
    noise = torch.stack([noise_of(seed, SHAPE) for seed in range(4)])
    for behaviour, ratio, kept in (
        ("current", "plain", {"path", "start"}),
        ("measured", "plain", {"path", "start", "log_prob"}),
        ("measured", "normalised", {"path", "start"}),
    ):
        objective = FlowGrpo(settings(behaviour=behaviour, ratio=ratio))
        assert objective.draw(LinearFamily(), noise, SIGMAS.float(), PROMPTED, (1, 2, 3, 4))[1].keys() == kept
