"""Clipping norms that move under privacy: the rule, what it costs, Opacus' optimiser, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import AdaClipDPOptimizer, DPOptimizer
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.methods.dpfl_moo_clip import (
    CountedClip,
    MooClipSchedule,
    attach_to_opacus,
    clip_factors,
    gradient_noise,
    noisy_clipped_share,
)

SIGMA, BATCH, STD = 1.0, 16, 2.0


def pieces(*, noise: float = SIGMA, seed: int = 0) -> tuple[GradSampleModule, DPOptimizer]:
    torch.manual_seed(seed)
    model = GradSampleModule(nn.Linear(4, 3))
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(seed)
    given = {"noise_multiplier": noise, "max_grad_norm": 1.0, "expected_batch_size": BATCH}
    return model, DPOptimizer(plain, generator=generator, **given)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def batch(seed: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=generator).requires_grad_(), torch.randint(0, 3, (size,), generator=generator)


def schedule(c0: float = 0.7, **more: object) -> MooClipSchedule:
    given = {"noise_multiplier": SIGMA, "dim": 15, "batch_size": BATCH, "kappa": 1.0, "lr": 0.2, "count_std": STD}
    return MooClipSchedule(c0, **{**given, **more})


def test_the_rule_is_that_of_opacus_adaclip_number_for_number() -> None:
    ours = schedule(kappa=1.5)
    model, _ = pieces()
    theirs = AdaClipDPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=SIGMA,
        target_unclipped_quantile=ours.target_unclipped_quantile,
        clipbound_learning_rate=0.2 * 1.5,
        max_clipbound=100.0,
        min_clipbound=0.01,
        unclipped_num_std=STD,
        max_grad_norm=0.7,
        expected_batch_size=BATCH,
    )
    for unclipped in (3.0, 16.0, 0.0, 9.5):
        theirs.sample_size, theirs.unclipped_num = BATCH, torch.tensor(unclipped, dtype=torch.float64)
        theirs.update_max_grad_norm()
        assert ours.update(1 - unclipped / BATCH) == pytest.approx(float(theirs.max_grad_norm), rel=1e-12)


def test_a_step_is_that_of_opacus_adaclip_but_for_what_divides_the_count() -> None:
    """Clipping, the raised noise, its draws and the move of C: the same at a batch of the size that is expected."""
    ours_model, ours = pieces(seed=3)
    theirs_model, _ = pieces(seed=3)
    rule = schedule(1.6)  # where some are clipped and some not: a share beyond 0 or 1 is cut here, and not there
    theirs = AdaClipDPOptimizer(
        torch.optim.SGD(theirs_model.parameters(), lr=1.0),
        noise_multiplier=SIGMA,
        target_unclipped_quantile=rule.target_unclipped_quantile,
        clipbound_learning_rate=0.2,
        max_clipbound=100.0,
        min_clipbound=0.01,
        unclipped_num_std=STD,
        max_grad_norm=1.6,
        expected_batch_size=BATCH,
        generator=torch.Generator().manual_seed(3),
    )
    attached = attach_to_opacus(ours, rule)
    for turn in range(4):
        step(ours_model, ours, *batch(turn))
        step(theirs_model, theirs, *batch(turn))
        attached.begin(rule.update(attached.share))
        assert rule.c == pytest.approx(float(theirs.max_grad_norm), rel=1e-4)
        for one, other in zip(ours_model.parameters(), theirs_model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert rule.round == 4


def test_noise_on_gradients_pays_for_the_count() -> None:
    for sigma, std in ((1.0, 2.0), (1.5, 3.0), (0.5, 0.3)):
        z = gradient_noise(sigma, std)
        assert (z**-2 + (2 * std) ** -2) ** -0.5 == pytest.approx(sigma)
    assert gradient_noise(0.0, 1.0) == 0.0
    model, optimizer = pieces()
    attached = attach_to_opacus(optimizer, schedule(0.5))
    before = [one.detach().clone() for one in model.parameters()]
    drawn = []
    for _ in range(400):
        step(model, optimizer, torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long))
        drawn += [one.grad.flatten() * BATCH for one in model.parameters()]
    found = torch.cat(drawn)
    assert float(found.std()) == pytest.approx(0.5 * gradient_noise(SIGMA, STD), rel=0.03)
    assert optimizer.noise_multiplier == SIGMA  # what the accountant is told
    assert len(attached.released) == 400
    assert all(not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_the_share_does_not_tell_how_many_were_drawn_and_no_sample_moves_it_by_more_than_half_a_bit() -> None:
    norms = torch.tensor([0.1, 0.2, 3.0, math.nan, math.inf])
    assert noisy_clipped_share(norms, 1.0, batch_size=10) == pytest.approx(0.5 + 0.05)
    every = [noisy_clipped_share(torch.cat([norms[:row], norms[row + 1 :]]), 1.0, batch_size=10) for row in range(5)]
    assert [abs(one - 0.55) for one in every] == pytest.approx([0.05] * 5)
    assert noisy_clipped_share(norms, 1.0, batch_size=10, noise=100.0) == 1.0
    assert noisy_clipped_share(norms[:0], 1.0, batch_size=10) == 0.5


def test_a_sample_that_is_nan_is_left_out_of_the_sum() -> None:
    assert clip_factors(torch.tensor([0.0, 0.5, 2.0, math.nan, math.inf]), 1.0).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    found = []
    for bad in (False, True):
        model, optimizer = pieces(noise=0.0)
        CountedClip(optimizer, c=0.3)
        x, y = batch(0)
        if bad:  # Opacus multiplies each sample's gradient by the batch's size, which undoes the mean
            x, y = torch.cat([x, torch.full((1, 4), math.nan)]), torch.cat([y, y[:1]])
        step(model, optimizer, x, y)
        found.append(torch.cat([one.detach().flatten() for one in model.parameters()]))
    assert bool(found[1].isfinite().all())
    torch.testing.assert_close(found[0], found[1])


def test_batches_in_pieces_are_one_step() -> None:
    whole_model, whole = pieces(noise=0.0)
    split_model, split = pieces(noise=0.0)
    clips = [CountedClip(one, c=0.3, count_std=1e-9) for one in (whole, split)]
    x, y = batch(1)
    step(whole_model, whole, x, y)
    for part, skip in ((slice(0, 7), True), (slice(7, None), False)):
        split.signal_skip_step(skip)
        split.zero_grad()
        nn.functional.cross_entropy(split_model(x[part]), y[part]).backward()
        split.step()
    for one, other in zip(whole_model.parameters(), split_model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert clips[0].share == pytest.approx(clips[1].share, abs=1e-6)


def test_linear_steps_bounds_and_state() -> None:
    linear = schedule(geometric=False, bounds=(0.5, 1.0))
    slope = linear.slope(0.0)
    assert slope == pytest.approx(SIGMA * math.sqrt(15) / BATCH)
    assert linear.update(0.0) == pytest.approx(0.7 - 0.2 * slope)
    for _ in range(9):
        linear.update(1.0)
    assert linear.state_dict() == {"c": 1.0, "round": 10}
    other = schedule(bounds=(0.5, 1.0))
    other.load_state_dict(linear.state_dict())
    assert (other.c, other.round) == (1.0, 10)
    with pytest.raises(InputError, match="state: expected c within"):
        other.load_state_dict({"c": 2.0, "round": 1})


def test_a_target_sets_kappa_and_rests_there() -> None:
    tracked = MooClipSchedule(noise_multiplier=1.5, dim=650, batch_size=64, target=0.3)
    assert tracked.target_unclipped_quantile == pytest.approx(0.7)
    assert tracked.slope(0.3) == pytest.approx(0.0)
    assert MooClipSchedule(noise_multiplier=1.5, dim=650, batch_size=64).count_std == 3.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": 1.0, "target": 0.5}, "kappa, target: expected one of both"),
        ({"kappa": 0.2}, "kappa: at 0.2 the noise outweighs all clipping"),
        ({"kappa": None, "noise_multiplier": 0.0}, "kappa: expected a number, as without noise"),
        ({"count_std": 0.5}, "noise_multiplier: expected less than twice count_std, 1, .* got 1"),
        ({"bounds": (1.0, 0.1)}, "bounds: expected two numbers above 0 that rise"),
        ({"bounds": (1.0, 2.0)}, "with c0 = 0.7 between"),
        ({"lr": math.nan}, "lr"),
    ],
)
def test_schedules_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule(**settings)


def test_what_else_is_refused() -> None:
    for share in (math.nan, -0.1, 1.1):
        with pytest.raises(InputError, match="noisy_fraction: expected a share from 0 to 1"):
            schedule().update(share)
    _, optimizer = pieces()
    with pytest.raises(InputError, match="schedule: count_std is 0"):
        attach_to_opacus(optimizer, schedule(count_std=0.0))
    with pytest.raises(InputError, match=r"schedule: expected the optimiser's noise multiplier, 1, got 1\.1"):
        attach_to_opacus(optimizer, schedule(noise_multiplier=1.1))
    with pytest.raises(InputError, match="schedule: expected the optimiser's batch size, 16, got 15"):
        attach_to_opacus(optimizer, schedule(batch_size=15))
    attached = attach_to_opacus(optimizer, schedule())
    with pytest.raises(InputError, match="has a clipping norm from outside already"):
        attach_to_opacus(optimizer, schedule())
    with pytest.raises(InputError, match="released: no step was taken"):
        _ = attached.share
    with pytest.raises(InputError, match="c: expected a finite number above 0, got nan"):
        attached.begin(math.nan)
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(InputError, match="expected Opacus' DPOptimizer with flat clipping, got SGD"):
        CountedClip(plain, c=1.0)
