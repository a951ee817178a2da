"""What every clipper of ``CLIPPERS`` promises."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import GradClipper
from tether.methods.adagc import AdaGC
from tether.methods.autoclip import AutoClip
from tether.methods.nfnet_agc import AGC
from tether.methods.nfnet_agc.unit_norms import unit_axes
from tether.methods.zclip import ZClip
from tether.optim import AdamW, clip_and_step
from tether.optim.clip import CLIPPERS, TensorClipper, UniformClipper
from tether.optim.clip.base import NonFiniteGradientError
from tether.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint

SHAPES = {"tower.weight": (4, 3), "tower.bias": (5,), "conv": (2, 2, 2), "scale": ()}
EXCEPTIONS = {
    "agc": {"brings a spike down": "it limits each unit and no global norm; its own check follows the suite"},
    "none": {"brings a spike down": "it is there to leave gradients alone"},
    "zclip": {"a warm-up of zeros freezes nothing": "mean and deviation are zero then, and so is every limit"},
}
SHORT = {
    "zclip": lambda: ZClip(warmup_steps=3),
    "autoclip": lambda: AutoClip(90.0),
    "adagc": lambda: AdaGC(warmup_steps=3),
}
"""Settings under which six steps show what a clipper does; the others stand with their defaults."""

clippers = pytest.mark.parametrize("name", CLIPPERS)


def make(name: str) -> GradClipper:
    return SHORT.get(name, CLIPPERS[name])()


def named(
    step: int, *, dtype: torch.dtype = torch.float64, size: float = 0.1, late: bool = False
) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(step)
    pairs = []
    for name, shape in {**SHAPES, **({"late": (3, 2)} if late else {})}.items():
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        parameter = nn.Parameter(weight.to(dtype))
        parameter.grad = (torch.randn(shape, generator=generator, dtype=torch.float64) * size).to(dtype)
        pairs.append((name, parameter))
    return pairs


def gradients(pairs: list[tuple[str, nn.Parameter]]) -> list[Tensor]:
    return [p.grad.double().clone() for _, p in pairs if p.grad is not None]


def flat(pairs: list[tuple[str, nn.Parameter]]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients(pairs)])


def warmed(name: str) -> GradClipper:
    clipper = make(name)
    for step in range(6):
        clipper.clip_(named(step), step=step)
    return clipper


def units(tensor: Tensor) -> Tensor:
    """One row for each unit of a tensor, as unit-wise clippers see it by default."""
    kept = unit_axes(tensor.shape)
    rows = tensor.movedim(kept, tuple(range(len(kept))))
    return rows.reshape(math.prod(rows.shape[: len(kept)]), -1)


def factors(clipper: GradClipper, before: list[Tensor], after: list[Tensor]) -> Tensor:
    """What each element was multiplied by, after checking that all elements of a group had the same factor."""
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    if isinstance(clipper, UniformClipper):
        groups = [torch.cat([ratio.flatten() for ratio in ratios])]
    elif isinstance(clipper, TensorClipper):
        groups = [ratio.flatten() for ratio in ratios]
    else:
        groups = [unit for ratio in ratios for unit in units(ratio)]
    for group in groups:
        torch.testing.assert_close(group, group[:1].expand_as(group), rtol=1e-12, atol=0)
    return torch.cat(groups)


@clippers
def test_is_a_clipper(name: str) -> None:
    assert isinstance(make(name), GradClipper)


@clippers
def test_says_what_enters_its_statistic(name: str) -> None:
    clipper = make(name)
    kept = [value for value in clipper.state_dict().values() if isinstance(value, Tensor)]
    assert (clipper.records == "nothing") == (not kept)  # pyrefly: ignore
    assert clipper.records in ("nothing", "raw", "clipped")  # pyrefly: ignore


@clippers
def test_never_lengthens_or_turns(name: str) -> None:
    clipper = make(name)
    for step in range(12):
        pairs = named(step, size=0.1 if step % 4 else 10.0)
        before = gradients(pairs)
        report = clipper.clip_(pairs, step=step)
        after = gradients(pairs)
        for old, new in zip(before, after, strict=True):
            assert new.norm() <= old.norm()
        scales = factors(clipper, before, after)
        assert 0 < scales.min() <= scales.max() <= 1
        torch.testing.assert_close(report.scale, scales.min(), rtol=1e-12, atol=0)
        torch.testing.assert_close(report.norm, torch.cat([g.flatten() for g in before]).norm(), rtol=1e-12, atol=0)
        assert 0 < report.scale <= 1
        assert not report.skip


@pytest.mark.parametrize("name", [name for name in CLIPPERS if "brings a spike down" not in EXCEPTIONS.get(name, {})])
def test_brings_a_spike_down(name: str) -> None:
    clipper, pairs = warmed(name), named(6, size=50.0)
    report = clipper.clip_(pairs, step=6)
    assert report.scale < 1
    assert flat(pairs).norm() <= report.threshold * (1 + 1e-9) < report.norm


def test_agc_brings_every_unit_down() -> None:
    """What stands for the check above where no limit on the global norm is in force."""
    clipper, pairs = AGC(), named(6, size=50.0)
    report = clipper.clip_(pairs, step=6)
    assert report.scale < 1
    assert report.threshold == torch.inf
    for (name, parameter), (told, fraction) in zip(pairs, clipper.last, strict=True):
        limits = clipper.clipping * units(parameter.detach()).norm(dim=1).clamp(min=clipper.eps)
        torch.testing.assert_close(units(parameter.grad).norm(dim=1), limits, rtol=1e-12, atol=0)
        assert (told, fraction) == (name, 1.0)


@clippers
def test_report_is_0d_tensors(name: str) -> None:
    report = warmed(name).clip_(named(6), step=6)
    for value in (report.norm, report.scale, report.threshold, report.skip):
        assert isinstance(value, Tensor)
        assert value.ndim == 0
    assert report.skip.dtype == torch.bool


@clippers
def test_untouched_gradients_keep_every_bit(name: str) -> None:
    clipper, pairs = warmed(name), named(2, size=1e-4)
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
        mine, theirs = (named(step, size=0.1 + step % 3, late=step > steps + 2) for _ in range(2))
        if step in (steps + 1, steps + 2, steps + 6):  # frozen for a while
            mine[2][1].grad = theirs[2][1].grad = None
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
@pytest.mark.parametrize("steps", [0, 6], ids=["fresh", "later"])
def test_state_survives_a_checkpoint(name: str, steps: int, tmp_path: Path) -> None:
    clipper, resumed = (warmed(name) if steps else make(name)), make(name)
    written = save_checkpoint(tmp_path, Checkpoint(steps, {}, {"clipper": clipper.state_dict()}), keep=1)
    resumed.load_state_dict(load_checkpoint(written).state["clipper"])
    for step in range(steps, steps + 4):
        mine, theirs = named(step, size=2.0), named(step, size=2.0)
        clipper.clip_(mine, step=step)
        resumed.clip_(theirs, step=step)
        assert torch.equal(flat(mine), flat(theirs))


@clippers
def test_state_of_another_part_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected keys"):
        make(name).load_state_dict({"mean": torch.tensor(1.0)})
    state = make(name).state_dict()
    state["settings"] = {**state["settings"], "nonfinite": "raise"}
    with pytest.raises(InputError, match="nonfinite is 'raise' there and 'skip' here"):
        make(name).load_state_dict(state)


@clippers
def test_state_from_other_parameters(name: str) -> None:
    """Who keeps a figure for each tensor refuses; who keeps some of the global norm, or none, knows no names."""
    state, resumed, same = warmed(name).state_dict(), make(name), make(name)
    resumed.load_state_dict(state)
    same.load_state_dict(state)
    others, mine = [(f"other.{key}", parameter) for key, parameter in named(6, size=3.0)], named(6, size=3.0)
    if "names" in state:
        before = flat(others)
        with pytest.raises(InputError, match=r"of other parameters: it knows tower\.weight.* here are other\.tower"):
            resumed.clip_(others, step=6)
        assert torch.equal(flat(others), before)
    else:
        resumed.clip_(others, step=6)
        same.clip_(mine, step=6)
        assert torch.equal(flat(others), flat(mine))


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
def test_missing_gradients(name: str) -> None:
    clipper, pairs = make(name), named(0)
    pairs[0][1].grad = None
    before = flat(pairs).norm()
    report = clipper.clip_(pairs, step=0)
    assert pairs[0][1].grad is None
    torch.testing.assert_close(report.norm, before, rtol=1e-12, atol=0)


@clippers
@pytest.mark.parametrize("steps", [0, 6], ids=["first step", "later"])
def test_zero_gradients(name: str, steps: int) -> None:
    clipper = make(name)
    frozen = EXCEPTIONS.get(name, {}).get("a warm-up of zeros freezes nothing") if not steps else None
    for step in range(steps):
        clipper.clip_(named(step), step=step)
    for step in range(steps, steps + 5):
        pairs = named(step, size=0.0)
        report = clipper.clip_(pairs, step=step)
        assert report.norm == 0
        assert not report.skip
        assert torch.equal(flat(pairs), torch.zeros(26, dtype=torch.float64))
    for step in range(steps + 5, steps + 10):
        pairs = named(step)
        before = gradients(pairs)
        report = clipper.clip_(pairs, step=step)
        scales = factors(clipper, before, gradients(pairs))
        torch.testing.assert_close(report.scale, scales.min(), rtol=1e-12, atol=0)
        assert bool(scales.min() > 0) == (frozen is None), frozen or "zeros froze it"


@clippers
@pytest.mark.parametrize("tensor", range(len(SHAPES)))
def test_one_tensor_of_zeros_freezes_none(name: str, tensor: int) -> None:
    clipper = make(name)
    for step in range(5):
        pairs = named(step)
        pairs[tensor][1].grad.zero_()
        clipper.clip_(pairs, step=step)
    pairs = named(5)
    clipper.clip_(pairs, step=5)
    assert all(gradient.norm() > 0 for gradient in gradients(pairs))


@clippers
def test_half_precision_gradients_are_measured_wide(name: str) -> None:
    pairs = named(0, dtype=torch.bfloat16)
    before = flat(pairs).norm()
    report = make(name).clip_(pairs, step=0)
    torch.testing.assert_close(report.norm, before, rtol=1e-6, atol=0)
    assert report.norm.dtype == torch.float64


@clippers
def test_tied_parameters_count_once(name: str) -> None:
    once, pairs = named(0), named(0)
    alone = make(name).clip_(once, step=0)
    report = make(name).clip_([*pairs, ("again", pairs[0][1])], step=0)
    assert torch.equal(report.norm, alone.norm)
    assert torch.equal(report.scale, alone.scale)
    assert torch.equal(flat(pairs), flat(once))


@clippers
def test_complex_gradients_count_both_parts(name: str) -> None:
    clipper, parameter = make(name), nn.Parameter(torch.ones(2, dtype=torch.complex128))
    for step in range(4):
        parameter.grad = torch.tensor([3 + 4j, 12j], dtype=torch.complex128) * (1 if step < 3 else 100)
        before = parameter.grad.clone()
        report = clipper.clip_([("z", parameter)], step=step)
        torch.testing.assert_close(report.norm.item(), 13.0 if step < 3 else 1300.0)
        torch.testing.assert_close(parameter.grad, before * report.scale, rtol=1e-12, atol=0)


@clippers
def test_whole_numbers_have_no_gradient(name: str) -> None:
    count = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    with_count, without = named(0), named(0)
    report = make(name).clip_([("count", count), *with_count], step=0)
    assert torch.equal(report.norm, make(name).clip_(without, step=0).norm)
    count.grad = torch.tensor([1, 1])
    with pytest.raises(InputError, match=r"gradient of 'count': expected real or complex numbers, got torch.int64"):
        make(name).clip_([("count", count)], step=0)


@clippers
@pytest.mark.parametrize("steps", [0, 6], ids=["first step", "later"])
def test_nothing_waits_for_the_device(name: str, steps: int) -> None:
    """Tensors of the meta device have no values: whoever asks for one fails here as it would wait on an accelerator."""
    clipper = warmed(name) if steps else make(name)
    model = nn.Linear(3, 2, device="meta")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["fused"] = True  # the kernel itself is not there for this device: count the calls instead
    calls = []
    optimizer.step = lambda: calls.append(vars(optimizer).get("found_inf"))  # pyrefly: ignore
    for step in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        report = clipper.clip_(model.named_parameters(), step=step)
        assert {value.device.type for value in (report.norm, report.scale, report.threshold, report.skip)} == {"meta"}
        clip_and_step(optimizer, clipper=clipper, named_params=model.named_parameters(), step=step)
    assert [found.device.type for found in calls] == ["meta"] * 3


@clippers
@pytest.mark.parametrize("kind", [AdamW, torch.optim.AdamW])
def test_clip_and_step_is_clip_then_step(name: str, kind: type[torch.optim.AdamW]) -> None:
    clippers, models = (make(name), make(name)), []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double())
    optimizers = [kind(model.parameters(), lr=0.01, eps=1e-3) for model in models]
    for step in range(8):
        data = torch.randn(5, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for model in models:
            model.zero_grad()
            (model(data).square().mean() * (50 if step in (4, 6) else 1)).backward()
            if step == 5:
                model[0].weight.grad[0, 0] = torch.nan
        report = clippers[0].clip_(models[0].named_parameters(), step=step)
        if not report.skip:
            optimizers[0].step()
        other = clip_and_step(optimizers[1], clipper=clippers[1], named_params=models[1].named_parameters(), step=step)
        assert bool(other.skip) == bool(report.skip) == (step == 5)
        assert not {"grad_scale", "found_inf"} & vars(optimizers[1]).keys()
        torch.testing.assert_close(other.scale, report.scale, rtol=1e-4, atol=0)
        for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-7)  # folded, the factor is float32


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
