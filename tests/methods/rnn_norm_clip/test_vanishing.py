"""The vanishing-gradient regulariser beyond the released figures: its edges, and torch's own cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.methods.rnn_norm_clip.loss import VanishingGradientPenalty, omega_regulariser
from tether.optim.clip import GlobalNorm
from tether_lab.papers.rnn_norm_clip import study as rnn_norm_clip


def signals(steps: int = 4) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.rand(steps, 2, 3, generator=draw, dtype=torch.float64) * 1.8 - 0.9
    return hidden, torch.randn(steps, 2, 3, generator=draw, dtype=torch.float64)


def weight() -> Tensor:
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("ratio", ["squared", "norm"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_gradient_is_the_formulas_slope_and_only_the_weights(ratio: str, activation: str) -> None:
    hidden, error = (each.requires_grad_() for each in signals())
    if activation == "sigmoid":
        hidden = (hidden.detach() + 1) / 2

    def omega(matrix: Tensor) -> Tensor:
        return omega_regulariser(hidden, error, matrix, activation, ratio=ratio)  # pyrefly: ignore

    assert torch.autograd.gradcheck(omega, weight())
    assert torch.autograd.grad(omega(weight()), [error], allow_unused=True) == (None,)


@pytest.mark.parametrize("ratio", ["squared", "norm"])
def test_a_signal_that_dies_counts_in_full_and_has_no_slope(ratio: str) -> None:
    nothing = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    omega = omega_regulariser(*signals(), nothing, ratio=ratio)  # pyrefly: ignore
    torch.testing.assert_close(omega.detach(), torch.ones_like(omega))
    assert torch.equal(torch.autograd.grad(omega, nothing)[0], torch.zeros(3, 3, dtype=torch.float64))


def test_a_rotation_keeps_every_length() -> None:
    turn = torch.linalg.qr(weight().detach()).Q.requires_grad_()
    assert omega_regulariser(*signals(), turn, "linear") < 1e-28


def test_states_without_a_signal_are_left_out() -> None:
    hidden, error = signals()
    quiet = torch.cat([error, torch.zeros(3, 2, 3, dtype=torch.float64)])
    longer = torch.cat([hidden, hidden[:3]])
    matrix = weight()
    torch.testing.assert_close(omega_regulariser(longer, quiet, matrix), omega_regulariser(hidden, error, matrix))
    omega = omega_regulariser(hidden, error, matrix, bound=1e9)
    assert omega == 0
    assert not torch.autograd.grad(omega, matrix)[0].any()


def test_half_precision_is_widened() -> None:
    hidden, error = (each.to(torch.bfloat16) for each in signals())
    error *= 1e-9  # its square would be nothing in float16
    matrix = weight().detach().float()
    omega = omega_regulariser(hidden, error, matrix, bound=1e-30)
    wide = omega_regulariser(hidden.double(), error.double(), matrix.double(), bound=1e-30)
    assert omega.dtype == torch.float32
    torch.testing.assert_close(omega.double(), wide, rtol=1e-5, atol=0)


@pytest.mark.parametrize("steps", [1, 5])
def test_penalty_on_torchs_cell(steps: int) -> None:
    torch.manual_seed(0)
    cell, state, states = nn.RNNCell(3, 4).double(), torch.zeros(2, 4, dtype=torch.float64), []
    for drive in torch.randn(steps, 2, 3, dtype=torch.float64):
        state = cell(drive, state)
        states.append(state)
    loss = state.square().sum()
    omega = VanishingGradientPenalty(alpha=0.5).add_(cell.weight_hh, loss=loss, hidden=states)
    assert [name for name, each in cell.named_parameters() if each.grad is not None] == ["weight_hh"]
    added = cell.weight_hh.grad.clone()
    errors = torch.stack(torch.autograd.grad(loss, states, retain_graph=True))
    alone = omega_regulariser(torch.stack(states), errors, cell.weight_hh)
    torch.testing.assert_close(alone.detach(), omega)
    torch.testing.assert_close(added, 0.5 * torch.autograd.grad(alone, cell.weight_hh)[0])
    (plain,) = torch.autograd.grad(loss, cell.weight_hh, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(cell.weight_hh.grad, plain + added)


def omega_and_signal(alpha: float, *, updates: int = 60, units: int = 12, length: int = 20) -> tuple[float, float]:
    """After a short training: the regulariser, and how much of the error signal arrives near the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.ModuleDict({"cell": nn.RNNCell(2, units), "head": nn.Linear(units, 2)})
        recurrent = nn.init.orthogonal_(network["cell"].weight_hh)
    with torch.no_grad():
        recurrent.mul_(0.7)
    optimizer, clipper = torch.optim.SGD(network.parameters(), lr=0.05), GlobalNorm(1.0)
    penalty, draw = VanishingGradientPenalty(alpha=alpha), torch.Generator().manual_seed(1)
    omega, kept = 0.0, 0.0
    for update in range(updates):
        drives = torch.randn(length, 16, 2, generator=draw)
        state, states = torch.zeros(16, units), []
        for drive in drives:
            state = network["cell"](drive, state)
            states.append(state)
        loss = nn.functional.cross_entropy(network["head"](state), (drives[0, :, 0] > 0).long())
        optimizer.zero_grad()
        omega = float(penalty.add_(recurrent, loss=loss, hidden=states))
        early, last = torch.autograd.grad(loss, [states[length // 10], state], retain_graph=True)
        kept = float(early.norm() / last.norm())
        loss.backward()
        clipper.clip_(network.named_parameters(), step=update)
        optimizer.step()
    return omega, kept


def test_training_with_the_penalty_keeps_the_error_signal() -> None:
    (plain, faded), (held, kept) = omega_and_signal(0.0), omega_and_signal(2.0)
    assert held < plain / 4
    assert faded < 0.001
    assert kept > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(4, 2, 2)}, r"expected hidden and dC_dh \(t, b, n\) .* got \(4, 2, 2\), \(4, 2, 3\)"),
        ({"dC_dh": torch.zeros(3, 2, 3)}, r"got \(4, 2, 3\), \(3, 2, 3\)"),
        ({"weight_hh": torch.zeros(3, 4)}, r"and \(3, 4\)"),
        ({"hidden": torch.zeros(8, 3), "dC_dh": torch.zeros(8, 3)}, r"got \(8, 3\)"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    given = {"hidden": torch.zeros(4, 2, 3), "dC_dh": torch.zeros(4, 2, 3), "weight_hh": torch.eye(3), **change}
    with pytest.raises(InputError, match=message):
        omega_regulariser(**given)


def test_the_papers_check_unrolls_the_network_that_it_trains_without_the_penalty() -> None:
    draw = torch.Generator().manual_seed(0)
    network, _ = rnn_norm_clip.make(draw)
    with torch.no_grad():
        network.get_parameter("bias_hh_l0").normal_(generator=draw)
        inputs, _ = rnn_norm_clip.sequences(draw, length=20)
        torch.testing.assert_close(torch.stack(rnn_norm_clip.unrolled(network, inputs)), network(inputs)[0])
