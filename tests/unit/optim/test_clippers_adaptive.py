"""What AutoClip, AdaGC and ZClip promise beyond the contract of all clippers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.methods.adagc import AdaGC
from tether.methods.autoclip import AutoClip
from tether.methods.autoclip.running_percentile import RECENT, FullHistory, History, Window
from tether.methods.zclip import ZClip
from tether.optim import SGD, clip_and_step
from tether.optim.clip import GlobalNorm
from tether.optim.clip.base import plain_names


def given(**gradients: float | list[float]) -> list[tuple[str, nn.Parameter]]:
    pairs = []
    for name, values in gradients.items():
        tensor = torch.tensor(values, dtype=torch.float64)
        parameter = nn.Parameter(torch.zeros_like(tensor))
        parameter.grad = tensor
        pairs.append((name, parameter))
    return pairs


def norms(clipper: AutoClip | AdaGC, values: list[float]) -> list[float]:
    """The norm left of each step's single gradient."""
    left = []
    for step, value in enumerate(values):
        pairs = given(w=value)
        clipper.clip_(pairs, step=step)
        left.append(abs(float(pairs[0][1].grad)))
    return left


@pytest.mark.parametrize("make", [FullHistory, lambda: Window(1), lambda: Window(7), lambda: Window(3 * RECENT)])
def test_history_is_numpys_percentile(make) -> None:
    history: History = make()
    draw = np.random.default_rng(0)
    kept: list[float] = []
    for step in range(5 * RECENT):
        value = float(draw.integers(5)) if step % 2 else draw.random()  # many equal ones
        keep = step % 11 != 5
        history.add(torch.tensor(value, dtype=torch.float64), keep=torch.tensor(keep))
        kept += [value] * keep
        held = kept if isinstance(history, FullHistory) else kept[-len(history._ring) :]
        assert int(history.count) == len(held)
        if step % 7 == 0 and held:
            for percent in (0, 1, 10, 37.7, 50, 99.5, 100):
                wanted = np.percentile(held, percent)
                assert float(history.percentile(percent)) == pytest.approx(wanted, rel=1e-14, abs=0)
        if step % 501 == 500:
            numbers = history.numbers()
            assert numbers.tolist() == (sorted(held) if isinstance(history, FullHistory) else held)
            history.load(numbers)


def test_history_resumes_across_its_lists_bit_for_bit() -> None:
    draw = np.random.default_rng(1)
    straight = AutoClip(35.0)
    values = draw.exponential(size=2 * RECENT + 90).tolist()
    whole = norms(straight, values)
    cut = RECENT + 17
    first, second = AutoClip(35.0), AutoClip(35.0)
    before = norms(first, values[:cut])
    second.load_state_dict(first.state_dict())
    assert before + norms(second, values[cut:]) == whole
    assert torch.equal(second.history, straight.history)


def test_autoclip_percentile_at_its_ends() -> None:
    values = [2.0, 8.0, 1.0, 4.0, 16.0]
    assert norms(AutoClip(100.0, eps=0.0), values) == values
    assert norms(AutoClip(0.0, eps=0.0), values) == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert norms(AutoClip(0.0), [1.0, 0.0, 1.0, 1.0]) == [pytest.approx(1.0, rel=1e-5), 0.0, 0.0, 0.0], "as documented"
    assert norms(AutoClip(0.0, window=2, eps=0.0), [1.0, 0.0, 4.0, 6.0, 5.0]) == [1.0, 0.0, 0.0, 4.0, 5.0]


def test_autoclip_zero_is_recorded_and_no_gradient_is_not() -> None:
    clipper = AutoClip()
    norms(clipper, [3.0, 0.0, 1.0])
    clipper.clip_([("w", nn.Parameter(torch.zeros(2)))], step=3)
    clipper.clip_([], step=4)
    assert clipper.history.tolist() == [0.0, 1.0, 3.0]


@pytest.mark.parametrize("factor", [2.0**-40, 0.5, 1024.0])
def test_autoclip_does_not_see_the_scale_of_the_loss(factor: float) -> None:
    values = np.random.default_rng(2).exponential(size=60)
    plain, scaled = AutoClip(eps=0.0), AutoClip(eps=0.0)
    left = norms(plain, values.tolist())
    assert norms(scaled, (values * factor).tolist()) == [value * factor for value in left]


def test_autoclip_zero_without_eps_is_no_division() -> None:
    report = AutoClip(eps=0.0).clip_(given(w=[0.0, 0.0]), step=0)
    assert (float(report.scale), float(report.norm)) == (1.0, 0.0)


@pytest.mark.parametrize("history", [[[1.0]], [math.nan], [1.0, -1.0], [math.inf]])
def test_autoclip_refuses_a_history_that_is_none(history: list) -> None:
    clipper = AutoClip()
    with pytest.raises(InputError, match="history: expected a vector of finite norms"):
        clipper.load_state_dict({**clipper.state_dict(), "history": torch.tensor(history)})
    short, long = AutoClip(window=2), AutoClip(window=3)
    norms(long, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="window is 3 there and 2 here"):
        short.load_state_dict(long.state_dict())
    with pytest.raises(InputError, match="a window of 2 cannot hold a history of 3"):
        short.load_state_dict({**short.state_dict(), "history": long.history})


def steady(clipper: AdaGC, steps: int, **gradients: float | list[float]) -> None:
    for step in range(steps):
        clipper.clip_(given(**gradients), step=step)


def test_adagc_spike_in_one_tensor_leaves_the_others_alone() -> None:
    clipper, other, constant = AdaGC(warmup_steps=2), AdaGC(warmup_steps=2), GlobalNorm(1.0)
    for part in (clipper, other):
        steady(part, 4, a=[0.3, 0.4], b=[0.1, 0.0])
    calm, spiked, shrunk = given(a=[0.3, 0.4], b=[0.1, 0.0]), given(a=[300, 400.0], b=[0.1, 0.0]), None
    clipper.clip_(spiked, step=4)
    other.clip_(calm, step=4)
    assert torch.equal(spiked[1][1].grad, calm[1][1].grad)
    torch.testing.assert_close(float(spiked[0][1].grad.norm()), 1.04 * 0.5, rtol=1e-5, atol=0)
    shrunk = given(a=[300, 400.0], b=[0.1, 0.0])
    constant.clip_(shrunk, step=4)
    assert float(shrunk[1][1].grad.norm()) == pytest.approx(0.1 / 500, rel=1e-3)
    for step in range(5, 9):
        pairs = [given(a=[0.3, 0.4], b=[0.1, 0.05]) for _ in range(2)]
        for part, mine in zip((clipper, other), pairs, strict=True):
            part.clip_(mine, step=step)
        assert torch.equal(pairs[0][1][1].grad, pairs[1][1][1].grad), "the spike left a trace in another tensor"


def test_adagc_zero_in_the_warm_up() -> None:
    released, ours = AdaGC(warmup_steps=3, ignore_zero=False), AdaGC(warmup_steps=3)
    for clipper in (released, ours):
        steady(clipper, 2, a=0.5, b=0.1)
        clipper.clip_(given(a=0.5, b=0.0), step=2)
    for clipper, left in ((released, 0.0), (ours, 0.1)):
        for step in range(3, 6):
            pairs = given(a=0.5, b=0.1)
            clipper.clip_(pairs, step=step)
            assert float(pairs[1][1].grad) == pytest.approx(left)
            assert float(pairs[0][1].grad) == pytest.approx(0.5)


def test_adagc_late_and_frozen_parameters() -> None:
    clipper = AdaGC(warmup_steps=2)
    steady(clipper, 4, a=0.5, b=0.2)
    late = given(a=0.5, b=0.2, late=7.0)
    late[1][1].grad = None  # frozen
    report = clipper.clip_(late, step=4)
    assert float(late[2][1].grad) == 7.0, "a new tensor starts with its own norm"
    assert report.scale == 1
    assert clipper.gamma == {"a": pytest.approx(0.5), "b": pytest.approx(0.2), "late": 7.0}
    back = given(b=2.0, late=70.0)
    clipper.clip_(back, step=5)
    assert [float(p.grad) for _, p in back] == [pytest.approx(0.208, rel=1e-5), pytest.approx(7.28, rel=1e-5)]


def test_adagc_reset_gamma() -> None:
    clipper = AdaGC(warmup_steps=1)
    steady(clipper, 3, **{"visual.w": 0.5, "text.w": 0.2})
    clipper.reset_gamma(["visual.*"])
    assert clipper.gamma == {"text.w": pytest.approx(0.2)}
    pairs = given(**{"visual.w": 9.0, "text.w": 9.0})
    clipper.clip_(pairs, step=3)
    assert float(pairs[0][1].grad) == 9.0
    assert float(pairs[1][1].grad) < 0.21
    with pytest.raises(InputError, match=r"reset_gamma: \['audio'\] match none of visual.w, text.w"):
        clipper.reset_gamma(["audio"])
    clipper.reset_gamma()
    assert clipper.gamma == {}
    AdaGC().reset_gamma()


def test_adagc_exclude() -> None:
    clipper = AdaGC(warmup_steps=1, exclude=["*logit_scale"])
    steady(clipper, 2, **{"w": 0.5, "head.logit_scale": 0.001})
    pairs = given(**{"w": 5.0, "head.logit_scale": 3.0})
    report = clipper.clip_(pairs, step=2)
    assert float(pairs[1][1].grad) == 3.0
    assert float(pairs[0][1].grad) == pytest.approx(0.52, rel=1e-5)
    assert report.threshold == math.inf, "something has no limit"
    with pytest.raises(
        InputError, match=r"exclude: no parameter is named like 'logit_scal'; did you mean 'logit_scale'"
    ):
        AdaGC(exclude=["logit_scal"]).clip_(given(logit_scale=1.0, w=1.0), step=0)
    AdaGC(exclude=["logit_*"]).clip_([], step=0)


def test_adagc_state_of_other_parameters() -> None:
    clipper, other = AdaGC(warmup_steps=1), AdaGC(warmup_steps=1)
    steady(clipper, 3, a=0.5, b=0.2)
    other.load_state_dict(clipper.state_dict())
    with pytest.raises(InputError, match=r"of other parameters: it knows a, b, and here are w1, w2, w3 and 1 more"):
        other.clip_(given(w1=1.0, w2=1.0, w3=1.0, w4=1.0), step=3)
    some = given(b=2.0, c=5.0)
    other.clip_(some, step=3)
    assert [float(p.grad) for _, p in some] == [pytest.approx(0.208, rel=1e-5), 5.0]
    for names, gamma in ((["a"], torch.zeros(2)), (["a", "a"], torch.zeros(2))):
        with pytest.raises(InputError, match="names and a gamma of shape"):
            other.load_state_dict({**other.state_dict(), "names": names, "gamma": gamma})


def test_adagc_two_parameters_of_one_name() -> None:
    with pytest.raises(InputError, match="two parameters are called 'w'"):
        AdaGC().clip_([*given(w=1.0), *given(w=1.0)], step=0)


def test_adagc_global_has_one_statistic() -> None:
    clipper = AdaGC(warmup_steps=2, scope="global")
    steady(clipper, 3, a=0.3, b=0.4)
    assert clipper.gamma == {"": pytest.approx(0.5)}
    pairs = given(a=30.0, b=40.0)
    report = clipper.clip_(pairs, step=3)
    assert [float(p.grad) for _, p in pairs] == pytest.approx([0.312, 0.416], rel=1e-5)
    assert float(report.threshold) == pytest.approx(0.52)


def test_adagc_excludes_no_tensor_from_a_global_statistic() -> None:
    with pytest.raises(InputError, match="exclude: expected none with scope 'global'"):
        AdaGC(exclude=["a"], scope="global")


def test_names_without_wrappers() -> None:
    assert plain_names(["module._orig_mod.a.w", "module.b"]) == ("a.w", "b")
    assert plain_names(["module.a", "b"]) == ("module.a", "b")
    assert plain_names(["a._checkpoint_wrapped_module.w", "_fsdp_wrapped_module.b"]) == ("a.w", "b")
    assert plain_names(["_orig_mod.a", "a"]) == ("_orig_mod.a", "a"), "two that would fall together"
    assert plain_names([]) == ()


def test_first_step_of_sgd_is_not_skipped_by_the_kernel() -> None:
    """Stopped by found_inf, torch's fused SGD would keep the unset memory that its momentum starts from."""
    model = nn.Linear(2, 2, device="meta")
    optimizer = SGD(model.parameters(), momentum=0.9)
    optimizer.param_groups[0]["fused"] = True
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    def once() -> None:
        clip_and_step(optimizer, clipper=GlobalNorm(1.0), named_params=model.named_parameters(), step=0)

    with pytest.raises(RuntimeError, match="meta"):  # it asks for the skip's value, which a meta tensor has not
        once()
    seen: list[Tensor | None] = []
    optimizer.step = lambda: seen.append(vars(optimizer).get("found_inf"))  # pyrefly: ignore
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    once()
    assert seen[0] is not None


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
