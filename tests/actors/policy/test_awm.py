"""AWM against closed forms and against a slow version written from the paper's equations, in double precision."""

import itertools
import math

import pytest
import torch

from actors.policy.objectives import awm
from actors.policy.objectives.awm import Awm
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.objective import clipped_objective
from actors.policy.objectives.timesteps import training_pairs
from tests.actors.policy.linear import SHAPE, LinearPolicy, batch, slope, wave

WEIGHTINGS = ["uniform", "t", "t2", "huber", "ghuber", "elbo"]
GOLDEN = {  # loss, d loss / d scale, d loss / d shift, first and last log-probability
    "uniform": (-0.364534589, -0.185711254, -0.211610222, -0.50926669, -1.91084079),
    "t": (-0.364534589, -0.213786027, -0.185891888, -0.407413352, -0.573252237),
    "t2": (-0.364534589, -0.212691745, -0.170916868, -0.325930681, -0.171975671),
    "huber": (-0.364534591, -0.150143083, -0.132008003, -0.570895391, -0.414696495),
    "ghuber": (-0.364534589, -0.205151401, -0.173206471, -2.69313124, -1.40707648),
    "elbo": (-0.364534593, 0.0495412561, -0.139584768, -0.129914972, -4.54962093),
}


def settings(**changes):
    return AwmOptions(**{"kl_reference": 0.0, "kl_ema": 0.0, "timesteps_per_sample": 3, **changes})


def slow_g(m, t, weighting, p=0.25):
    """The paper's g, one number at a time."""
    match weighting:
        case "uniform":
            return m
        case "t":
            return m * t
        case "t2":
            return m * t * t
        case "huber":
            return (math.sqrt(m + 1e-10) - 1e-5) * t
        case "ghuber":
            return ((m + 1e-10) ** p - (1e-10) ** p) * t / p
        case "elbo":
            s = 0.7 * math.sqrt(t / (1 - min(t, 0.99)))
            return m / (2 * s * s)


def pairs_of(b, s):
    sigma_BN, noise_BNCHW = training_pairs(
        b.sample_seeds, SHAPE, b.sigmas, kind=s.timesteps, count=s.timesteps_per_sample, shift=s.timestep_shift,
        lowest=s.timestep_min, fraction=s.timestep_fraction,
    )  # fmt: skip
    return sigma_BN, noise_BNCHW


def slow_loss(policy, b, s, old=None):
    """The whole loss by loops over samples and timesteps."""
    sigma_BN, noise_BNCHW = pairs_of(b, s)
    pg, kl_ref, kl_ema, count = 0.0, 0.0, 0.0, 0
    for i in range(len(b.sample_seeds)):
        logps, olds = [], []
        for n in range(sigma_BN.shape[1]):
            t, eps, x0 = sigma_BN[i, n].item(), noise_BNCHW[i, n], b.latents_BCHW[i]
            x = (1 - sigma_BN[i, n]) * x0 + sigma_BN[i, n] * eps
            v = policy.velocity(x[None], sigma_BN[i, n][None], None)[0].detach()
            m = float(((v - (eps - x0).double()) ** 2).mean())
            logps.append(-slow_g(m, t, s.weighting))
            olds.append(logps[-1] if old is None else float(old[i, n]))
            kl_ref += float(((v - 0.9 * x.double()) ** 2).mean())
            kl_ema += float(((v - 0.75 * x.double()) ** 2).mean())
            count += 1
        ratios = [math.exp(a - o) for a, o in zip(logps, olds, strict=True)]
        if s.ratio == "sum_first":
            ratios = [math.exp(sum(logps) / len(logps) - sum(olds) / len(olds))]
        a = max(-s.advantage_clip, min(s.advantage_clip, float(b.advantages_B[i]))) / s.advantage_clip * s.advantage_max
        low, high = 1 - s.clip_range, 1 + s.clip_range
        pg += sum(max(-a * r, -a * max(low, min(high, r))) for r in ratios) / len(ratios)
    pg /= len(b.sample_seeds)
    return pg + s.kl_reference * kl_ref / count + s.kl_ema * kl_ema / count


def measured(s):
    """Old log-probabilities some hundredths beside the policy's own, so that some ratios are clipped and some are not."""
    b, policy = batch(), LinearPolicy()
    own = torch.zeros(len(b.sample_seeds), 3, dtype=torch.float64)
    sigma_BN, noise_BNCHW = pairs_of(b, s)
    for i, n in itertools.product(range(own.shape[0]), range(own.shape[1])):
        t, x0, eps = sigma_BN[i, n].double(), b.latents_BCHW[i], noise_BNCHW[i, n].double()
        v = policy.velocity(((1 - t) * x0 + t * eps)[None], t[None], None)[0].detach()
        own[i, n] = -slow_g(float(((v - (eps - x0)) ** 2).mean()), t.item(), s.weighting)
    return own + wave(*own.shape, phase=0.5) / 5


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("ratio", ["exp_first", "sum_first"])
def test_loss_and_gradient_equal_the_slow_version(weighting, ratio):
    s = settings(weighting=weighting, ratio=ratio, kl_reference=0.3, kl_ema=0.2, clip_range=0.02)
    for old in (None, measured(s)):
        b, policy = batch(**({} if old is None else {"log_prob": old})), LinearPolicy()
        loss = Awm(s).loss(policy, b)
        assert old is None or loss.clipped.any()
        assert loss.total.item() == pytest.approx(slow_loss(LinearPolicy(), b, s, old), rel=1e-7)
        if old is not None:  # on policy the ratio is 1 whatever the numbers are: the next test
            gradient = [g.item() for g in torch.autograd.grad(loss.total, policy.parameters())]
            expected = slope(lambda p, b=b, s=s, old=old: slow_loss(LinearPolicy(*p), b, s, old), [0.7, -0.2])
            assert gradient == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_golden_numbers(weighting):
    """They stand in docs/objectives/awm.md."""
    s = settings(weighting=weighting, kl_reference=0.3, kl_ema=0.2, clip_range=0.02)
    old, policy = measured(s), LinearPolicy()
    loss = Awm(s).loss(policy, batch(log_prob=old))
    log_prob = (loss.ratio.log() + old).flatten()
    gradient = [g.item() for g in torch.autograd.grad(loss.total, policy.parameters())]
    golden = [loss.total.item(), *gradient, log_prob[0].item(), log_prob[-1].item()]
    assert golden == pytest.approx(GOLDEN[weighting], rel=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_on_policy_the_ratio_is_one_and_the_gradient_is_advantage_times_gradient_of_g(weighting):
    s, policy, b = settings(weighting=weighting), LinearPolicy(), batch()
    loss = Awm(s).loss(policy, b)
    assert (loss.ratio == 1).all()
    assert not loss.clipped.any()
    gradient = torch.autograd.grad(loss.total, policy.parameters())

    sigma_BN, noise_BNCHW = pairs_of(b, s)
    x0, sigma = b.latents_BCHW[:, None], sigma_BN[..., None, None, None]
    noised = ((1 - sigma) * x0 + sigma * noise_BNCHW).flatten(0, 1)
    velocity = policy.velocity(noised, sigma_BN.flatten(), None)
    m = (velocity - (noise_BNCHW - x0).flatten(0, 1)).square().flatten(1).mean(1)
    a = b.advantages_B.clamp(-5, 5).repeat_interleave(3) / 5
    expected = torch.autograd.grad(
        (a * -awm.log_prob(m, sigma_BN.flatten(), weighting, 0.25)).mean(), policy.parameters()
    )
    for mine, theirs in zip(gradient, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_zero_advantage_gives_zero_gradient():
    policy = LinearPolicy()
    loss = Awm(settings()).loss(policy, batch(advantages=torch.zeros(4, dtype=torch.float64)))
    assert all(g.item() == 0 for g in torch.autograd.grad(loss.total, policy.parameters()))


def test_a_positive_advantage_pulls_the_velocity_to_the_sample():
    policy, b = LinearPolicy(), batch(1, advantages=torch.tensor([1.0], dtype=torch.float64))
    objective = Awm(settings(weighting="uniform"))
    before = objective.loss(policy, b)
    with torch.no_grad():
        for parameter, gradient in zip(
            policy.parameters(), torch.autograd.grad(before.total, policy.parameters()), strict=True
        ):
            parameter -= 0.01 * gradient
    assert objective.loss(policy, b).terms["matching_error"] < before.terms["matching_error"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_log_prob_equals_the_papers_g_one_number_at_a_time(weighting):
    for m in (0.0, 1e-6, 0.3, 4.0):
        for t in (0.01, 0.5, 0.995, 1.0):
            got = awm.log_prob(
                torch.tensor(m, dtype=torch.float64), torch.tensor(t, dtype=torch.float64), weighting, 0.25
            )
            assert -got.item() == pytest.approx(slow_g(m, t, weighting), rel=1e-9, abs=1e-12)


def test_clip_bounds():
    ratio = torch.tensor([0.5, 1.0, 1.5])
    torch.testing.assert_close(clipped_objective(torch.tensor(1.0), ratio, 0.2), torch.tensor([-0.5, -1.0, -1.2]))
    torch.testing.assert_close(clipped_objective(torch.tensor(-1.0), ratio, 0.2), torch.tensor([0.8, 1.0, 1.5]))


def test_kl_is_zero_where_the_anchor_is_the_policy():
    class Same(LinearPolicy):
        def velocity(self, latents, sigma, conditions, adapter="trained"):
            return super().velocity(latents, sigma, conditions)

    loss = Awm(settings(kl_reference=1.0, kl_ema=1.0)).loss(Same(), batch())
    assert loss.terms["kl_reference"] == 0
    assert loss.terms["kl_ema"] == 0


def test_ema_decay_schedule():
    assert [awm.ema_decay(step, 0.001, 0.3) for step in (0, 1, 100, 300, 1000)] == pytest.approx(
        [0, 0.001, 0.1, 0.3, 0.3]
    )


def test_elbo_is_finite_where_there_is_no_noise():
    errors = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert awm.log_prob(errors, torch.zeros(3), "elbo", 0.25).isfinite().all()
