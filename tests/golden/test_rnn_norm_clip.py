"""Global clipping and the vanishing-gradient regulariser against the released RNN.py: every case from the file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor, nn

from tether.methods.rnn_norm_clip.loss import VanishingGradientPenalty, omega_regulariser
from tether.optim.clip import GlobalNorm

V = load("rnn-norm-clip")
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
CASES = V.meta["cases"]
ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "linear": lambda x: x}
PARAMETERS = ("W_uh", "W_hh", "W_hy", "b_hh", "b_hy")


def array(case: str, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(V[case + name]).copy())


def equal(got: Tensor, case: str, name: str) -> None:
    np.testing.assert_allclose(got.detach().numpy(), V[case + name], **CLOSE, err_msg=case + name)


def cost(task: str, outputs: list[Tensor], target: Tensor) -> Tensor:
    if task == "lastSoftmax":
        return -(target * F.log_softmax(outputs[-1], dim=1)).sum(dim=1).mean()
    if task == "lastLinear":
        return (outputs[-1] - target).square().sum(dim=1).mean()
    assert task == "softmax", task
    rows = torch.cat(outputs)
    return -(target * F.log_softmax(rows, dim=1)).mean(dim=0).sum()


def forward(case: str) -> tuple[dict[str, nn.Parameter], list[Tensor], Tensor]:
    """The network with its recurrent weight as torch stores it, (out, in)."""
    settings = CASES[case]
    weights = {name: nn.Parameter(array(case, name)) for name in PARAMETERS}
    weights["W_hh"] = nn.Parameter(weights["W_hh"].detach().T.contiguous())
    state, states = torch.zeros(settings["B"], settings["n"], dtype=torch.float64), []
    for drive in array(case, "u"):
        state = ACTIVATIONS[settings["act"]](state @ weights["W_hh"].T + drive @ weights["W_uh"] + weights["b_hh"])
        states.append(state)
    outputs = [state @ weights["W_hy"] + weights["b_hy"] for state in states]
    return weights, states, cost(settings["task"], outputs, array(case, "t"))


@pytest.mark.parametrize("case", CASES)
def test_omega(case: str) -> None:
    settings = CASES[case]
    for ratio, name in (("squared", "official"), ("norm", "paper")):
        weight = array(case, "W_hh").T.contiguous().requires_grad_()
        omega = omega_regulariser(
            array(case, "h"),
            array(case, "dCdh"),
            weight,
            settings["act"],
            ratio=ratio,  # pyrefly: ignore
            bound=settings["bound"],
        )
        equal(omega, case, f"omega_{name}")
        equal(torch.autograd.grad(omega, weight)[0].T, case, f"gWhh_omega_{name}")
    valid = array(case, "dCdh").square().sum(dim=2) >= settings["bound"]
    assert np.array_equal(valid.numpy(), V[case + "valid"].astype(bool))


@pytest.mark.parametrize("case", CASES)
def test_penalty_then_clip(case: str) -> None:
    settings = CASES[case]
    weights, states, loss = forward(case)
    equal(torch.stack(states), case, "h")
    equal(loss, case, "cost")
    equal(torch.stack(torch.autograd.grad(loss, states, retain_graph=True)), case, "dCdh")
    penalty = VanishingGradientPenalty(alpha=settings["alpha"], activation=settings["act"], bound=settings["bound"])
    omega = penalty.add_(weights["W_hh"], loss=loss, hidden=states)
    equal(omega, case, "omega_official")
    added = weights["W_hh"].grad.clone()
    loss.backward()
    for name, weight in weights.items():
        plain = weight.grad - added if name == "W_hh" else weight.grad
        equal(plain.T if name == "W_hh" else plain, case, f"g_{name}")
    report = GlobalNorm(settings["cutoff"]).clip_(weights.items(), step=0)
    equal(report.norm, case, "norm")
    for name, weight in weights.items():
        equal(weight.grad.T if name == "W_hh" else weight.grad, case, f"clipped_{name}")


@pytest.mark.parametrize(("eps", "name"), [(0.0, "clip_paper"), (1e-6, "clip_torch")])
def test_clip(eps: float, name: str) -> None:
    settings = V.meta["clip_cfg"]
    clipper = GlobalNorm(settings["c"], eps=eps)
    for step, row in enumerate(V["clip_grads"]):
        pairs, start = [], 0
        for index, shape in enumerate(settings["shapes"]):
            parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
            size = math.prod(shape)
            parameter.grad = torch.from_numpy(row[start : start + size].copy()).view(shape)
            pairs.append((f"tensor{index}", parameter))
            start += size
        report = clipper.clip_(pairs, step=step)
        np.testing.assert_allclose(float(report.norm), V["clip_norms"][step], **CLOSE)
        got = np.concatenate([p.grad.numpy().ravel() for _, p in pairs])
        np.testing.assert_allclose(got, V[name][step], **CLOSE)
