"""The gradient penalty on any critic, the box around its weights, and two players in the one loop."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Step
from tether.core.types import Batch
from tether.methods.wgan_gp.loss import clip_weights_, gradient_penalty, wgan_critic_loss, wgan_generator_loss
from tether.methods.wgan_gp.step import AdversarialPair, CriticStep, GeneratorStep
from tether.models import create
from tether.optim.clip import NoClip
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Constant


def net(*sizes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, dtype=dtype), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def samples(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class TowerCritic(nn.Module):
    """An image tower of the toolkit with one score on top."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = create("tiny", seed=0).visual
        self.score = nn.Linear(self.tower.projection.out_features, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.score(self.tower(image).pooled)


def test_a_linear_critic_has_one_slope_everywhere():
    critic = nn.Linear(3, 1, dtype=torch.float64)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[2.0, 0.0, 1.0]]))
    real, fake = samples(5, 3, seed=1), samples(5, 3, seed=2)
    penalty, slopes = gradient_penalty(critic, real, fake)
    torch.testing.assert_close(slopes, torch.full((5,), 5**0.5, dtype=torch.float64))
    torch.testing.assert_close(penalty.item(), (5**0.5 - 1) ** 2)
    assert gradient_penalty(critic, real, fake, target=3.0, one_sided=True).penalty == 0
    torch.testing.assert_close(gradient_penalty(critic, real, fake, eps=4.0).slopes, slopes.new_full((5,), 3.0))


def test_alpha_is_one_per_sample_and_drawn_from_the_generator():
    critic, seen = net(4, 8, 1), []
    critic.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    zeros, ones = torch.zeros(6, 4, dtype=torch.float64), torch.ones(6, 4, dtype=torch.float64)
    gradient_penalty(critic, ones, zeros, generator=torch.Generator().manual_seed(0))
    gradient_penalty(critic, ones, zeros, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[0][:, :1].expand(6, 4))
    assert len(seen[0][:, 0].unique()) == 6
    for shape in [(6,), (6, 1)]:
        gradient_penalty(critic, ones, zeros, alpha=torch.full(shape, 0.25))
        assert torch.equal(seen[-1], torch.full_like(ones, 0.25))


def test_nothing_flows_to_whatever_made_the_samples():
    critic, generator = net(3, 8, 1), nn.Linear(2, 3, dtype=torch.float64)
    real = samples(5, 3, seed=1).requires_grad_()
    wgan_critic_loss(critic, real, generator(samples(5, 2, seed=2))).loss.backward()
    assert real.grad is None
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_a_dead_critic_gets_a_gradient_of_zero_not_nan():
    critic = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        critic[0].bias.fill_(-1e6)
    penalty, slopes = gradient_penalty(critic, torch.randn(5, 3), torch.randn(5, 3))
    assert torch.equal(slopes, torch.zeros(5))
    assert penalty == 1
    penalty.backward()
    assert all(parameter.grad is None or parameter.grad.count_nonzero() == 0 for parameter in critic.parameters())


def test_parts_of_the_critic_loss():
    critic, real, fake = net(3, 8, 1), samples(5, 3, seed=1), samples(5, 3, seed=2)
    alpha = torch.linspace(0, 1, 5, dtype=torch.float64)
    out = wgan_critic_loss(critic, real, fake, lam=3.0, alpha=alpha)
    wasserstein = (critic(real).mean() - critic(fake).mean()).detach()
    torch.testing.assert_close(out.wasserstein, wasserstein)
    torch.testing.assert_close(out.gp, gradient_penalty(critic, real, fake, alpha=alpha).penalty.detach())
    torch.testing.assert_close(out.loss.detach(), 3 * out.gp - wasserstein)
    torch.testing.assert_close(wgan_generator_loss(critic, fake), -critic(fake).mean())
    assert wgan_critic_loss(critic, real, fake, lam=0.0).gp == 0


def test_scores_may_have_one_or_two_axes_and_samples_any_number():
    real, fake = samples(4, 3, 8, 8, seed=1), samples(4, 3, 8, 8, seed=2)
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.float64), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
    critic.double()(real)
    alpha = torch.linspace(0, 1, 4, dtype=torch.float64)
    first = gradient_penalty(critic, real, fake, alpha=alpha)
    second = gradient_penalty(lambda x: critic(x).squeeze(1), real, fake, alpha=alpha.view(4, 1, 1, 1))
    torch.testing.assert_close(first, second)
    assert first.slopes.shape == (4,)


def test_a_tower_of_the_toolkit_is_a_critic():
    critic = TowerCritic()
    real = samples(4, 3, 32, 32, seed=1, dtype=torch.float32)
    fake = samples(4, 3, 32, 32, seed=2, dtype=torch.float32)
    out = wgan_critic_loss(critic, real, fake, lam=10.0, alpha=torch.linspace(0, 1, 4))
    assert out.slopes.min() > 0
    out.loss.backward()
    without = [name for name, p in critic.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    weight, start = critic.tower.blocks[0].qkv.weight, critic.tower.blocks[0].qkv.weight.detach().clone()
    way = weight.grad / weight.grad.norm()
    scores = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.copy_(start + sign * 1e-2 * way)
        scores.append(wgan_critic_loss(critic, real, fake, lam=10.0, alpha=torch.linspace(0, 1, 4)).loss.item())
    torch.testing.assert_close((scores[0] - scores[1]) / 2e-2, weight.grad.norm().item(), rtol=0.05, atol=0)


def test_fused_attention_is_left_for_the_plain_kernel():
    def critic(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x).sum(dim=(1, 2, 3))

    real, fake = (samples(3, 2, 16, 8, seed=seed, dtype=torch.float32) for seed in (1, 2))
    scale = torch.ones((), requires_grad=True)
    penalty, _ = gradient_penalty(lambda x: critic(x * scale), real, fake)
    penalty.backward()
    assert scale.grad.isfinite()


def test_autocast_leaves_slopes_in_float32():
    critic = net(3, 16, 1, dtype=torch.float32)
    real, fake = samples(5, 3, seed=1, dtype=torch.float32), samples(5, 3, seed=2, dtype=torch.float32)
    alpha = torch.linspace(0, 1, 5)
    wide = gradient_penalty(critic, real, fake, alpha=alpha)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = gradient_penalty(critic, real, fake, alpha=alpha)
        half = gradient_penalty(critic, real.bfloat16(), fake.bfloat16(), alpha=alpha)
        loss = wgan_critic_loss(critic, real, fake, alpha=alpha).loss
    assert torch.equal(wide.slopes, narrow.slopes)
    assert torch.equal(wide.penalty, narrow.penalty)
    assert half.slopes.dtype == loss.dtype == torch.float32


def test_a_model_in_bfloat16_is_measured_in_float32():
    critic = net(3, 16, 1, dtype=torch.bfloat16)
    real, fake = samples(5, 3, seed=1, dtype=torch.bfloat16), samples(5, 3, seed=2, dtype=torch.bfloat16)
    out = wgan_critic_loss(critic, real, fake)
    out.loss.backward()
    assert out.slopes.dtype == torch.float32
    assert critic[0].weight.grad.isfinite().all()


def test_for_logs_no_graph_is_kept_and_none_is_needed():
    critic = net(3, 8, 1)
    with torch.no_grad():
        penalty, slopes = gradient_penalty(critic, samples(5, 3, seed=1), samples(5, 3, seed=2), create_graph=False)
    assert not penalty.requires_grad
    assert slopes.isfinite().all()


def test_batch_norm_is_warned_of_once_for_each_critic():
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    real, fake = torch.randn(5, 3), torch.randn(5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_penalty(critic.eval(), real, fake)
        gradient_penalty(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)), real, fake)
    critic.train()
    with pytest.warns(UserWarning, match="batch norm"):
        gradient_penalty(critic, real, fake)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_penalty(critic, real, fake)
    with pytest.warns(UserWarning, match="batch norm"):
        gradient_penalty(copy.deepcopy(critic), real, fake)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_slopes_that_are_not_finite_are_handed_on_and_named_when_debugging():
    critic, real = net(3, 8, 1), samples(5, 3, seed=1)
    real[2, 0] = torch.inf
    fake = samples(5, 3, seed=2)
    out = gradient_penalty(lambda x: critic(x) * x.sum(dim=1, keepdim=True), real, fake, create_graph=False)
    assert out.slopes.isfinite().tolist() == [True, True, False, True, True]
    assert not out.penalty.isfinite()
    with torch.autograd.set_detect_anomaly(True, check_nan=False), pytest.warns(UserWarning, match=r"rows \[2\] of 5"):
        gradient_penalty(lambda x: critic(x) * x.sum(dim=1, keepdim=True), real, fake)


def test_bad_input():
    critic, real, fake = net(3, 8, 1), samples(5, 3, seed=1), samples(5, 3, seed=2)
    with pytest.raises(InputError, match=r"one shape, got \(5, 3\) and \(4, 3\)"):
        gradient_penalty(critic, real, fake[:4])
    with pytest.raises(InputError, match="empty batch"):
        wgan_critic_loss(critic, real[:0], fake[:0])
    with pytest.raises(InputError, match=r"real: a slope needs floating-point samples, got torch\.uint8"):
        gradient_penalty(critic, real.to(torch.uint8), fake)
    for alpha in (torch.rand(1), torch.rand(5, 3), torch.rand(())):
        with pytest.raises(InputError, match=r"alpha: expected one per sample, \(5,\) or \(5, 1\)"):
            gradient_penalty(critic, real, fake, alpha=alpha)
    with pytest.raises(InputError, match=r"critic: expected scores \(5,\) or \(5, 1\), got \(5, 8\)"):
        gradient_penalty(net(3, 8), real, fake)
    with pytest.raises(InputError, match="critic: expected scores"):
        wgan_generator_loss(lambda x: x.mean(), fake)
    with pytest.raises(InputError, match="do not depend on the samples"):
        gradient_penalty(lambda x: torch.zeros(5), real, fake)
    with pytest.raises(InputError, match="lam"):
        CriticStep(lam=-1.0)


def test_clipped_weights_lie_in_the_box_and_are_counted():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[0.5, -0.5], [0.005, -0.005]]))
        module[0].bias.copy_(torch.tensor([1.0, 0.0]))
        module[1].weight.fill_(1.0)
    share = clip_weights_(module, 0.01)
    assert share.shape == ()
    torch.testing.assert_close(share.item(), 5 / 10)
    assert max(parameter.abs().max() for parameter in module.parameters()) == torch.tensor(0.01)
    assert torch.equal(module[0].weight[1], torch.tensor([0.005, -0.005]))
    assert torch.equal(module[1].running_var, torch.ones(2))
    with pytest.raises(InputError, match="Identity has no parameters"):
        clip_weights_(nn.Identity())


def pair() -> AdversarialPair:
    return AdversarialPair(net(2, 8, 3, seed=1), net(3, 8, 1, seed=2))


def batches(count: int) -> list[Batch]:
    words = torch.zeros(6, 0, dtype=torch.int64)
    return [
        Batch(
            samples(6, 3, seed=3 * index),
            words,
            {"noise": samples(6, 2, seed=3 * index + 1), "alpha": samples(6, seed=3 * index + 2).sigmoid()},
        )
        for index in range(count)
    ]


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([{"params": list(module.parameters()), "initial_lr": 1e-2}], lr=1e-2, betas=(0.5, 0.9))


def test_the_loop_plays_both_as_a_loop_written_out_does():
    ours, theirs, data = pair(), pair(), batches(9)
    players = [
        Player(
            GeneratorStep(), adam(ours.generator), list(ours.generator.named_parameters()), Constant(), NoClip(), 3, 1
        ),
        Player(CriticStep(lam=2.0), adam(ours.critic), list(ours.critic.named_parameters()), Constant(), NoClip()),
    ]
    played: list[int] = []
    fit(
        ours,
        players,
        iter(data),
        start=0,
        steps=7,
        accumulate=1,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=lambda report: played.append(report.step),
    )
    assert played == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    left = iter(data)
    generator, critic = adam(theirs.generator), adam(theirs.critic)
    for step in range(7):
        if step in (3, 6):
            loss = -theirs.critic(theirs.generator(next(left).extra["noise"])).mean()
            generator.zero_grad()
            loss.backward()
            generator.step()
        batch = next(left)
        critic.zero_grad()
        fake = theirs.generator(batch.extra["noise"]).detach()
        x = (batch.extra["alpha"][:, None] * batch.image + (1 - batch.extra["alpha"][:, None]) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(theirs.critic(x).sum(), x, create_graph=True)
        loss = theirs.critic(fake).mean() - theirs.critic(batch.image).mean()
        (loss + 2 * (slope.norm(dim=1) - 1).square().mean()).backward()
        critic.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_each_player_moves_only_its_own():
    model, (batch,) = pair(), batches(1)
    assert isinstance(CriticStep(), Step)
    assert isinstance(GeneratorStep(), Step)
    GeneratorStep()(model, batch, step=0, gather=LOCAL).total.backward()
    assert all(parameter.grad is None for parameter in model.critic.parameters())
    assert all(parameter.requires_grad for parameter in model.critic.parameters())
    assert all(parameter.grad.any() for parameter in model.generator.parameters())
    model.zero_grad()
    loss = CriticStep()(model, batch, step=0, gather=LOCAL)
    loss.total.backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert {name: value.shape for name, value in loss.terms.items()} == dict.fromkeys(
        ("wasserstein", "gp", "slope"), ()
    )


def test_steps_say_what_they_need():
    (batch,) = batches(1)
    with pytest.raises(InputError, match="expected an AdversarialPair, got Sequential"):
        CriticStep()(net(3, 1), batch, step=0, gather=LOCAL)
    with pytest.raises(InputError, match=r"expected 'noise' for the generator, got \[\]"):
        GeneratorStep()(pair(), Batch(batch.image, batch.text), step=0, gather=LOCAL)
    with pytest.raises(InputError, match=r"batch\.extra\['noise'\]: expected a tensor, got list"):
        GeneratorStep()(pair(), Batch(batch.image, batch.text, {"noise": [1]}), step=0, gather=LOCAL)
