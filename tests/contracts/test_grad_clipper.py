"""What every clipper of ``CLIPPERS`` promises."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.norms import gradient_norms
from tether.core.protocols import GradClipper
from tether.optim.clip import CLIPPERS, GlobalNorm, ZClip
from tether.optim.clip.base import NonFiniteGradientError

SHAPES = {"tower.weight": (4, 3), "tower.bias": (5,), "conv": (2, 2, 2), "scale": ()}
EXCEPTIONS = {"none": {"brings a spike down": "it is there to leave gradients alone"}}

clippers = pytest.mark.parametrize("name", CLIPPERS)


def make(name: str) -> GradClipper:
    return {"zclip": lambda: ZClip(warmup_steps=3)}.get(name, CLIPPERS[name])()


def named(step: int, *, dtype: torch.dtype = torch.float64, size: float = 0.1) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(step)
    pairs = []
    for name, shape in SHAPES.items():
        parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
        parameter.grad = (torch.randn(shape, generator=generator, dtype=torch.float64) * size).to(dtype)
        pairs.append((name, parameter))
    return pairs


def flat(pairs: list[tuple[str, nn.Parameter]]) -> Tensor:
    return torch.cat([p.grad.double().flatten() for _, p in pairs if p.grad is not None])


def warmed(name: str) -> GradClipper:
    clipper = make(name)
    for step in range(6):
        clipper.clip_(named(step), step=step)
    return clipper


@clippers
def test_is_a_clipper(name: str) -> None:
    assert isinstance(make(name), GradClipper)


@clippers
def test_never_lengthens_or_turns(name: str) -> None:
    clipper = make(name)
    for step in range(12):
        pairs = named(step, size=0.1 if step % 4 else 10.0)
        before = flat(pairs)
        report = clipper.clip_(pairs, step=step)
        after = flat(pairs)
        assert after.norm() <= before.norm()
        torch.testing.assert_close(after, before * report.scale, rtol=1e-12, atol=0)
        torch.testing.assert_close(report.norm, before.norm(), rtol=1e-12, atol=0)
        assert 0 < report.scale <= 1
        assert not report.skip


@clippers
def test_brings_a_spike_down(name: str) -> None:
    if "brings a spike down" in EXCEPTIONS.get(name, {}):
        pytest.skip(EXCEPTIONS[name]["brings a spike down"])
    clipper, pairs = warmed(name), named(6, size=50.0)
    report = clipper.clip_(pairs, step=6)
    assert flat(pairs).norm() <= report.threshold * (1 + 1e-9) < report.norm


@clippers
def test_report_is_0d_tensors(name: str) -> None:
    report = warmed(name).clip_(named(6), step=6)
    for value in (report.norm, report.scale, report.threshold, report.skip):
        assert isinstance(value, Tensor)
        assert value.ndim == 0
    assert report.skip.dtype == torch.bool


@clippers
def test_untouched_gradients_keep_every_bit(name: str) -> None:
    clipper, pairs = warmed(name), named(2)
    before, version = flat(pairs), [p.grad._version for _, p in pairs]
    report = clipper.clip_(pairs, step=6)
    assert report.scale == 1
    assert torch.equal(flat(pairs), before)
    assert [p.grad._version for _, p in pairs] == version, "a gradient was written although no limit was exceeded"


@clippers
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("steps", [0, 6], ids=["first step", "later"])
def test_non_finite_is_skipped_and_forgotten(name: str, poison: float, steps: int) -> None:
    clipper, other = make(name), make(name)
    for step in range(steps):
        clipper.clip_(named(step), step=step)
        other.clip_(named(step), step=step)
    bad = named(99)
    bad[1][1].grad[0] = poison
    report = clipper.clip_(bad, step=steps)
    assert report.skip
    assert not report.norm.isfinite()
    assert report.scale == 0
    assert torch.equal(flat(bad), torch.zeros_like(flat(bad)))
    for step in range(steps, steps + 5):
        mine, theirs = named(step, size=3.0), named(step, size=3.0)
        clipper.clip_(mine, step=step + 1)
        other.clip_(theirs, step=step)
        assert torch.equal(flat(mine), flat(theirs)), "the bad step left a trace"


@clippers
@pytest.mark.parametrize("steps", [1, 6], ids=["warming up", "later"])
def test_state_continues_bit_for_bit(name: str, steps: int) -> None:
    clipper = make(name)
    for step in range(steps):
        clipper.clip_(named(step), step=step)
    state = clipper.state_dict()
    kept = copy.deepcopy(state)
    json.dumps({key: value for key, value in state.items() if not isinstance(value, Tensor)})
    resumed = make(name)
    resumed.load_state_dict(state)
    for step in range(steps, steps + 8):
        mine, theirs = named(step, size=0.1 + step % 3), named(step, size=0.1 + step % 3)
        first, second = clipper.clip_(mine, step=step), resumed.clip_(theirs, step=step)
        assert torch.equal(flat(mine), flat(theirs))
        assert torch.equal(first.threshold, second.threshold)
    for key, value in clipper.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, resumed.state_dict()[key])
    for key, value in kept.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(state[key], value, equal_nan=True, rtol=0, atol=0, msg=f"{key} is shared")


@clippers
def test_state_of_another_part_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected keys"):
        make(name).load_state_dict({"mean": torch.tensor(1.0)})
    state = make(name).state_dict()
    state["settings"] = {**state["settings"], "nonfinite": "raise"}
    with pytest.raises(InputError, match="nonfinite is 'raise' there and 'skip' here"):
        make(name).load_state_dict(state)


@clippers
def test_no_gradients(name: str) -> None:
    clipper = make(name)
    before = clipper.state_dict()
    for pairs in ([], [("a", nn.Parameter(torch.zeros(3)))]):
        report = clipper.clip_(pairs, step=0)
        assert (report.norm, report.scale, report.skip) == (0, 1, False)
    after = clipper.state_dict()
    for key, value in before.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(after[key], value, equal_nan=True, rtol=0, atol=0)


@clippers
def test_missing_and_zero_gradients(name: str) -> None:
    clipper, pairs = make(name), named(0)
    pairs[0][1].grad = None
    report = clipper.clip_(pairs, step=0)
    assert pairs[0][1].grad is None
    torch.testing.assert_close(report.norm, flat(pairs).norm(), rtol=1e-1, atol=0)
    pairs = named(0, size=0.0)
    report = clipper.clip_(pairs, step=1)
    assert report.norm == 0
    assert not report.skip
    assert torch.equal(flat(pairs), torch.zeros(26, dtype=torch.float64))


@clippers
def test_half_precision_gradients_are_measured_wide(name: str) -> None:
    pairs = named(0, dtype=torch.bfloat16)
    report = make(name).clip_(pairs, step=0)
    torch.testing.assert_close(report.norm, flat(pairs).norm() / report.scale, rtol=5e-3, atol=0)
    assert report.norm.dtype == torch.float64


@clippers
def test_tied_parameters_count_once(name: str) -> None:
    pairs = named(0)
    report = make(name).clip_([*pairs, ("again", pairs[0][1])], step=0)
    torch.testing.assert_close(report.norm * report.scale, flat(pairs).norm(), rtol=1e-12, atol=0)


@clippers
def test_refuses_what_it_cannot_clip(name: str) -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match=r"'weight'.*dense"):
        make(name).clip_(table.named_parameters(), step=0)
    with pytest.raises(InputError, match="named_parameters"):
        make(name).clip_(nn.Linear(2, 2).parameters(), step=0)  # pyrefly: ignore


@clippers
def test_can_raise_instead_and_names_the_tensor(name: str) -> None:
    clipper = CLIPPERS[name](nonfinite="raise")
    pairs = named(0)
    pairs[2][1].grad[0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteGradientError, match=r"1 gradients are not finite: conv"):
        clipper.clip_(pairs, step=0)
    with pytest.raises(InputError, match="nonfinite"):
        CLIPPERS[name](nonfinite="ignore")


def test_complex_gradients_count_both_parts() -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    parameter.grad = torch.tensor([3 + 4j, 0])
    report = GlobalNorm(1.0).clip_([("z", parameter)], step=0)
    torch.testing.assert_close(report.norm.item(), 5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6 + 0.8j, 0]))


def test_large_finite_gradients_are_not_taken_for_infinite() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3e25, 4e25, 0.0])
    report = GlobalNorm(1.0).clip_([("w", parameter)], step=0)
    assert not report.skip
    torch.testing.assert_close(report.norm.item(), 5e25)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8, 0.0]))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_of_long_and_strided_tensors(layout: str, dtype: torch.dtype) -> None:
    gradient = torch.rand(3, 4, 300, 400, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 0.5
    if layout == "transposed":
        gradient = gradient.transpose(2, 3)
    elif layout == "channels last":
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=dtype))
    parameter.grad = gradient
    norms = gradient_norms([("w", parameter)])
    expected = gradient.double().square().sum()
    torch.testing.assert_close(norms.squares[0], expected, rtol=1e-5 if layout != "contiguous" else 3e-7, atol=0)


@pytest.mark.parametrize(
    ("part", "keywords", "message"),
    [
        (GlobalNorm, {"max_norm": 0.0}, "max_norm: expected a number above 0, got 0.0"),
        (GlobalNorm, {"max_norm": float("nan")}, "max_norm"),
        (GlobalNorm, {"eps": -1.0}, "eps"),
        (ZClip, {"alpha": 1.0}, r"alpha: expected a number in \[0, 1\), got 1.0"),
        (ZClip, {"alpha": -0.1}, "alpha"),
        (ZClip, {"z_thresh": 0.0}, "z_thresh"),
        (ZClip, {"warmup_steps": 0}, "warmup_steps"),
        (ZClip, {"max_grad_norm": 0.0}, "max_grad_norm"),
        (ZClip, {"mode": "median"}, "mode: expected 'zscore' or 'percentile', got 'median'"),
        (ZClip, {"clip_option": "most"}, "clip_option"),
        (ZClip, {"clip_factor": 0.0}, "clip_factor"),
        (ZClip, {"min_threshold_ratio": -1.0}, "min_threshold_ratio"),
        (ZClip, {"eps": float("inf")}, "eps"),
    ],
)
def test_settings_out_of_range(part: type, keywords: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        part(**keywords)


def spiral(ratio: float) -> ZClip:
    """Settings under which clipped values pull the mean down, on gradients of constant distribution."""
    clipper = ZClip(clip_factor=0.55, alpha=0.8, z_thresh=1.5, max_grad_norm=None, min_threshold_ratio=ratio)
    generator = torch.Generator().manual_seed(0)
    for step in range(140):
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        parameter.grad = 5 + torch.randn(1, generator=generator, dtype=torch.float64)
        clipper.clip_([("w", parameter)], step=step)
    return clipper


def test_threshold_ratio_stops_the_death_spiral() -> None:
    free, held = spiral(0.0), spiral(0.5)
    assert free.mean < 1
    assert free.clipped_fraction > 0.6
    assert held.mean > 2.4


def test_zclip_after_constant_warm_up() -> None:
    clipper = ZClip(warmup_steps=4, max_grad_norm=None)
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    for step in range(5):
        parameter.grad = torch.tensor([2.0 if step < 4 else 6.0], dtype=torch.float64)
        report = clipper.clip_([("w", parameter)], step=step)
    assert clipper.variance >= 0
    torch.testing.assert_close(parameter.grad.item(), 2.0, rtol=1e-6, atol=0)
    assert report.norm == 6
