"""Units, their norms, and adaptive gradient clipping beyond the released figures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.norms import gradient_norms
from tether.methods.nfnet_agc import AGC, adaptive_clip_grad_
from tether.methods.nfnet_agc.unit_norms import scale_without_waiting_, unit_axes, unit_norms, unitwise_norm
from tether.optim.clip import CLIPPERS

SHAPES = {
    "linear": (6, 4),
    "conv": (5, 3, 2, 2),
    "depthwise": (4, 1, 3, 3),
    "position": (1, 5, 3),
    "attention": (2, 3, 4),
    "gain": (4, 1, 1, 1),
    "row": (1, 7),
    "bias": (6,),
    "scale": (),
}


def pairs(
    shapes: dict[str, tuple[int, ...]] | None = None, *, dtype: torch.dtype = torch.float64, size: float = 1.0
) -> list[tuple[str, nn.Parameter]]:
    draw = torch.Generator().manual_seed(0)
    named = []
    for name, shape in (SHAPES if shapes is None else shapes).items():
        parameter = nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype))
        parameter.grad = (torch.randn(shape, generator=draw, dtype=torch.float64) * size).to(dtype)
        named.append((name, parameter))
    return named


def expected(weight: Tensor, gradient: Tensor, *, clipping: float, eps: float, rule: str) -> Tensor:
    """Clipped unit by unit, by the definition."""
    kept = unit_axes(weight.shape, rule=rule)
    reduced = [axis for axis in range(weight.ndim) if axis not in kept]
    limit = clipping * (weight**2).sum(reduced, keepdim=True).sqrt().clamp(min=eps)
    length = (gradient**2).sum(reduced, keepdim=True).sqrt()
    return torch.where(length > limit, gradient * limit / length.clamp(min=1e-6), gradient)


@pytest.mark.parametrize(
    ("shape", "nfnet", "timm"),
    [
        ((), (), ()),
        ((5,), (), ()),
        ((5, 3), (0,), (0,)),
        ((5, 1), (), (0,)),
        ((1, 5), (), (0,)),
        ((2, 3, 4), (1, 2), (0,)),
        ((1, 3, 4), (1, 2), (0,)),
        ((1, 1, 4), (), (0,)),
        ((4, 3, 2, 2), (0,), (0,)),
        ((4, 1, 1, 1), (), (0,)),
        ((1, 1, 1, 1, 7), (), (0,)),
        ((0, 3), (), (0,)),
    ],
)
def test_which_axes_number_the_units(shape: tuple[int, ...], nfnet: tuple[int, ...], timm: tuple[int, ...]) -> None:
    assert unit_axes(shape, rule="nfnet") == nfnet
    assert unit_axes(shape, rule="timm") == timm


@pytest.mark.parametrize("rule", ["nfnet", "timm"])
def test_norms_of_every_shape_at_once(rule: str) -> None:
    named = pairs()
    norms = unit_norms(named, rule=rule)
    for kind, take in (("gradient", lambda p: p.grad), ("weight", lambda p: p.detach())):
        wanted = torch.cat([unitwise_norm(take(p), rule=rule).flatten() for _, p in named])
        torch.testing.assert_close(getattr(norms, kind), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(norms.whole.squares, gradient_norms(named).squares, rtol=1e-12, atol=0)
    assert norms.counts == list(norms.totals)


@pytest.mark.parametrize("rule", ["nfnet", "timm"])
@pytest.mark.parametrize("clipping", [0.02, 1.0])
def test_clips_each_unit_and_only_offending_tensors(rule: str, clipping: float) -> None:
    named = pairs()
    before = [(p.grad.clone(), p.grad._version) for _, p in named]
    report = adaptive_clip_grad_(named, clipping=clipping, rule=rule)
    touched = 0
    for (_, parameter), (old, version), scale in zip(named, before, report.scale.tolist(), strict=True):
        wanted = expected(parameter.detach(), old, clipping=clipping, eps=1e-3, rule=rule)
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=0)
        same = torch.equal(wanted, old)
        assert (parameter.grad._version == version) == same == (scale == 1)
        touched += not same
    assert touched == len(named) if clipping < 1 else 0 < touched < len(named)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last"])
@pytest.mark.parametrize("over", [1, 3, 16])
def test_few_rows_or_many_whatever_the_layout(layout: str, over: int) -> None:
    draw = torch.Generator().manual_seed(1)
    weight, gradient = (torch.randn(16, 6, 3, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    gradient *= 1e-3
    gradient[:over] *= 1e3
    if layout == "transposed":
        gradient = gradient.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == "channels last":
        weight, gradient = (x.contiguous(memory_format=torch.channels_last) for x in (weight, gradient))
    parameter = nn.Parameter(weight)
    parameter.grad = gradient.clone()
    report = adaptive_clip_grad_([("conv", parameter)])
    wanted = expected(weight, gradient, clipping=0.01, eps=1e-3, rule="nfnet")
    torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=0)
    assert torch.equal(parameter.grad[over:], gradient[over:])
    assert dict(report) == {"conv": over / 16}


def test_accelerators_multiply_without_looking() -> None:
    gradient = torch.randn(4, 3)
    factor = torch.tensor([[1.0], [0.5], [1.0], [0.25]], dtype=torch.float64)
    wanted, clear = gradient * factor.float(), torch.tensor(True)
    got = gradient.clone()
    scale_without_waiting_(got, factor, skip=~clear)
    assert torch.equal(got, wanted)
    assert torch.equal(got[0], gradient[0])
    got[0, 0] = torch.nan
    scale_without_waiting_(got, None, skip=clear)
    assert torch.equal(got, torch.zeros(4, 3))


def test_more_than_four_axes_are_flattened_with_a_warning() -> None:
    named = pairs({"conv3d": (4, 2, 3, 3, 3)})
    weight, gradient = named[0][1].detach(), named[0][1].grad.clone()
    with pytest.warns(UserWarning, match=r"\(4, 2, 3, 3, 3\) has more than four axes"):
        adaptive_clip_grad_(named)
    wanted = expected(weight.flatten(1), gradient.flatten(1), clipping=0.01, eps=1e-3, rule="timm")
    torch.testing.assert_close(named[0][1].grad.flatten(1), wanted, rtol=1e-12, atol=0)
    adaptive_clip_grad_(pairs({"conv3d": (4, 2, 3, 3, 3)}), rule="timm")  # timm's rule knows them


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    named = pairs({"linear": (3, 4096)}, dtype=dtype, size=0.02)
    norms = unit_norms(named)
    torch.testing.assert_close(norms.weight, named[0][1].detach().double().norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(norms.gradient, named[0][1].grad.double().norm(dim=1), rtol=1e-6, atol=0)
    adaptive_clip_grad_(named)
    limit = 0.01 * norms.weight
    torch.testing.assert_close(named[0][1].grad.double().norm(dim=1), limit, rtol=4e-3, atol=0)


def test_large_finite_gradients_are_not_taken_for_infinite() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.tensor([[3e25, 4e25], [1e-4, 0.0]])
    report = AGC().clip_([("w", parameter)], step=0)
    assert not report.skip
    torch.testing.assert_close(report.norm.item(), 5e25)
    torch.testing.assert_close(parameter.grad[0].norm().item(), 0.01 * math.sqrt(2))
    assert parameter.grad[1].tolist() == pytest.approx([1e-4, 0.0])


def test_complex_weights_count_both_parts() -> None:
    parameter = nn.Parameter(torch.full((2, 3), 3 + 4j))
    parameter.grad = torch.tensor([[30 + 40j, 0, 0], [0.001j, 0, 0]])
    adaptive_clip_grad_([("z", parameter)], clipping=0.1)
    length = 0.1 * 5 * math.sqrt(3)
    torch.testing.assert_close(parameter.grad[0, 0], torch.tensor((0.6 + 0.8j) * length))
    assert parameter.grad[1, 0] == torch.tensor(0.001j)


def test_what_is_excluded_is_measured_and_left_alone() -> None:
    named = pairs()
    before = {name: p.grad.clone() for name, p in named}
    clipper = AGC(exclude=["lin*", "scale"])
    report = clipper.clip_(named, step=0)
    for name, parameter in named:
        assert torch.equal(parameter.grad, before[name]) == (name in ("linear", "scale"))
    torch.testing.assert_close(report.norm, torch.cat([g.flatten() for g in before.values()]).norm())
    told = dict(clipper.last)
    assert (told["linear"], told["scale"], told["conv"]) == (0.0, 0.0, 1.0)
    named[0][1].grad[0, 0] = torch.nan
    assert clipper.clip_(named, step=1).skip, "an excluded gradient that is not finite is no reason to go on"
    assert not named[0][1].grad.any()


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    clipper = AGC(exclude=["linaer"])
    with pytest.raises(InputError, match=r"no parameter is named like 'linaer'; did you mean 'linear'\?"):
        clipper.clip_(pairs(), step=0)
    assert clipper.clip_([], step=0).scale == 1
    wrapped = [(f"module.{name}", parameter) for name, parameter in pairs()]
    clipper = AGC(exclude=["linear"])
    clipper.clip_(wrapped, step=0)
    assert dict(clipper.last)["linear"] == 0.0
    clipper.clip_(wrapped[1:], step=1)  # frozen later: no reason to stop


def test_everything_excluded_is_only_measured() -> None:
    named = pairs()
    report = AGC(exclude=["*"]).clip_(named, step=0)
    assert report.scale == 1
    torch.testing.assert_close(report.norm, gradient_norms(named).total)


def test_zero_weights_start_slowly_and_a_logit_scale_is_a_unit() -> None:
    gain, scale = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    gain.grad, scale.grad = torch.tensor([3.0, 0.0, 4.0]), torch.tensor(-2.0)
    report = adaptive_clip_grad_([("gain", gain), ("scale", scale)])
    torch.testing.assert_close(gain.grad.norm().item(), 0.01 * 1e-3)
    torch.testing.assert_close(scale.grad.item(), -0.01 * math.log(1 / 0.07))
    assert report.clipped_fraction.tolist() == [1.0, 1.0]


def test_tied_weights_are_clipped_once_and_late_ones_when_they_come() -> None:
    named = pairs({"first": (3, 4), "late": (2, 4)})
    late = named[1][1].grad
    named[1][1].grad = None
    clipper = AGC()
    clipper.clip_([*named, ("tied", named[0][1])], step=0)
    assert clipper.last.names == ("first",)
    length = named[0][1].grad.norm(dim=1)
    torch.testing.assert_close(length, 0.01 * named[0][1].detach().norm(dim=1))
    named[1][1].grad = late
    clipper.clip_(named, step=1)
    assert dict(clipper.last)["late"] == 1.0


def test_without_any_gradient_no_tensor_is_named() -> None:
    report = adaptive_clip_grad_([("a", nn.Parameter(torch.zeros(3)))])
    assert (report.names, list(report), report.norm.item(), report.skip.item()) == ((), [], 0.0, False)


def test_is_made_from_words() -> None:
    assert CLIPPERS["agc"] is AGC
    state = AGC(0.02, exclude=["*head.weight"]).state_dict()
    AGC(0.02, exclude=("*head.weight",)).load_state_dict(state)
    with pytest.raises(InputError, match=r"clipping is 0.02 there and 0.01 here"):
        AGC(exclude=["*head.weight"]).load_state_dict(state)
