"""Descent on the sphere keeps to it, goes where the prior is, and refuses what is no row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.methods.dti.optimizer import SphericalSGD
from tether.methods.dti.slerp import slerp


def rows(count: int = 3, width: int = 5, *, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double(), dim=1)


def test_rows_stay_of_length_1_and_a_step_is_lr_long() -> None:
    at = torch.nn.Parameter(rows())
    optimizer = SphericalSGD([at], lr=0.05)
    for step in range(20):
        before = at.detach().clone()
        at.grad = 10.0 ** (step % 7 - 3) * rows(seed=step + 1)
        optimizer.step()
        assert float((at.detach().norm(dim=1) - 1).abs().max()) < 1e-6
        angle = torch.arccos((before * at.detach()).sum(1))
        torch.testing.assert_close(angle, torch.full_like(angle, 0.05).atan(), rtol=1e-4, atol=0)
    at.grad = torch.zeros_like(at)
    before = at.detach().clone()
    optimizer.step()
    assert torch.equal(at.detach(), before / before.norm(dim=1, keepdim=True))


def test_without_data_a_strong_prior_leads_to_it_along_the_great_circle() -> None:
    start, target = rows(), rows(seed=9)
    at = torch.nn.Parameter(start.clone())
    optimizer = SphericalSGD([at], lr=0.02, kappa=100.0, target=target)
    for _ in range(200):
        at.grad = torch.zeros_like(at)
        optimizer.step()
        plane = torch.stack([start, target], dim=2)
        inside = plane @ torch.linalg.lstsq(plane, at.detach()[..., None]).solution
        torch.testing.assert_close(inside[..., 0], at.detach(), rtol=0, atol=1e-9)
    assert float((at.detach() * target).sum(1).min()) > 0.999


def test_state_goes_on_bit_for_bit() -> None:
    paths = []
    for cut in (False, True):
        at = torch.nn.Parameter(rows())
        optimizer = SphericalSGD([at], lr=0.05, beta=0.9, kappa=0.1, target=rows(seed=9))
        for step in range(6):
            if cut and step == 3:
                state = optimizer.state_dict()
                at = torch.nn.Parameter(at.detach().clone())
                optimizer = SphericalSGD([at], lr=0.05, beta=0.9, kappa=0.1, target=rows(seed=9))
                optimizer.load_state_dict(state)
            at.grad = rows(seed=step + 20)
            optimizer.step()
        paths.append(at.detach())
    assert torch.equal(*paths)


def test_bad_settings_of_the_sphere_are_told() -> None:
    at = torch.nn.Parameter(rows())
    for settings, said in (({"lr": -1.0}, "lr"), ({"kappa": -1.0}, "kappa"), ({"beta": 1.0}, "beta")):
        with pytest.raises(InputError, match=f"^{said}: expected"):
            SphericalSGD([at], **settings)
    with pytest.raises(InputError, match="target: expected"):
        SphericalSGD([at], target=rows(2))
    with pytest.raises(InputError, match="target_ids: expected"):
        SphericalSGD([at], target=rows(), target_ids=(1, 3))
    with pytest.raises(InputError, match="length 0 in row 1"):
        SphericalSGD([torch.nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))])
    with pytest.raises(InputError, match="rows"):
        SphericalSGD([torch.nn.Parameter(torch.ones(3))])
    long = torch.nn.Parameter(3 * rows())
    with pytest.warns(UserWarning, match="brought to it"):
        SphericalSGD([long])
    torch.testing.assert_close(long.detach(), rows())


def test_rows_are_pulled_from_the_least_to_the_greatest_that_is_named() -> None:
    moved = []
    for ids in ([0, 1, 2], [2, 0], torch.tensor([0, 2]), (0, 2)):
        at = torch.nn.Parameter(rows(4))
        optimizer = SphericalSGD([at], lr=0.1, kappa=1.0, target=rows(4, seed=1), target_ids=ids)
        at.grad = torch.zeros_like(at)
        optimizer.step()
        moved.append(((at.detach() - rows(4)).norm(dim=1) > 0.01).tolist())
    assert moved == [[True, True, True, False]] * 4


def test_narrow_numbers_are_refused_as_rows_would_not_keep_their_length() -> None:
    with pytest.raises(InputError, match="float32 or float64"):
        SphericalSGD([torch.nn.Parameter(rows().bfloat16())])


def test_slerp_of_opposite_rows_in_single_precision() -> None:
    for seed in range(50):
        row = F.normalize(torch.randn(64, generator=torch.Generator().manual_seed(seed)), dim=0)
        with pytest.raises(InputError, match="opposite"):
            slerp(row, -row, 0.5)


def test_slerp_of_rows() -> None:
    a, b = rows().requires_grad_(), rows(seed=4)
    for t in (0.0, 0.3, 1.0):
        found = slerp(a, b, t)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3).double())
        angle = torch.arccos((a * b).sum(1))
        torch.testing.assert_close(torch.arccos((a * found).sum(1).clamp(-1, 1)), t * angle, rtol=1e-6, atol=1e-6)
    slerp(a, a.detach(), 0.5).sum().backward()
    assert bool(a.grad.isfinite().all())
    with pytest.raises(InputError, match="opposite"):
        slerp(b, -b, 0.5)
