"""Epsilon of sampled Gaussian steps: ours is Opacus' own, beside dp-accounting's, which composes the count apart, too.

    python -m venv /tmp/private && /tmp/private/bin/pip install tether-clip[private] dp-accounting
    /tmp/private/bin/python benchmarks/private_epsilon.py

dp-accounting pins versions older than ours, so it is no extra. Prints a table; nothing is written.
"""

from __future__ import annotations

import itertools
import logging

import torch
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import create_accountant

from tether.methods.dpfl_moo_clip import PrivateClient, gradient_noise

SIGMAS, RATES, STEPS, DELTA = (0.8, 1.5, 3.0), (0.05, 0.25), (60, 300), 1e-5


def ours(sigma: float, rate: float, steps: int, accountant: str) -> float:
    """What a client says after so many steps, without taking them."""
    x, y = torch.zeros(400, 3), torch.zeros(400, dtype=torch.long)
    given = {"batch_size": round(400 * rate), "noise_multiplier": sigma, "lr": 1.0, "count_std": sigma}
    client = PrivateClient(torch.nn.Linear(3, 2), x, y, accountant=accountant, **given)
    client.spent_before([(sigma, rate, steps)])
    return client.epsilon(delta=DELTA)


def opacus(sigma: float, rate: float, steps: int, accountant: str) -> float:
    """Opacus' own."""
    found = create_accountant(mechanism=accountant)
    found.history = [(sigma, rate, steps)]
    return found.get_epsilon(delta=DELTA)


def google(sigma: float, rate: float, steps: int, kind: type, *, apart: bool = False) -> float:
    """dp-accounting's; ``apart`` composes both releases of a step, gradients and a count whose bits are centred."""
    event = GaussianDpEvent(sigma)
    if apart:
        event = ComposedDpEvent([GaussianDpEvent(gradient_noise(sigma, sigma)), GaussianDpEvent(2 * sigma)])
    found = kind()
    found.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, event), steps))
    return found.get_epsilon(DELTA)


def main() -> None:
    """Print them all."""
    logging.disable(logging.WARNING)  # orders that Opacus leaves out
    print("sigma  rate  steps | rdp: ours, Opacus, dp-accounting, both apart | prv: ours, Opacus, dp-accounting's pld")
    for sigma, rate, steps in itertools.product(SIGMAS, RATES, STEPS):
        rdp = [one(sigma, rate, steps, "rdp") for one in (ours, opacus)]
        rdp += [google(sigma, rate, steps, RdpAccountant, apart=apart) for apart in (False, True)]
        prv = [one(sigma, rate, steps, "prv") for one in (ours, opacus)] + [google(sigma, rate, steps, PLDAccountant)]
        assert rdp[0] == rdp[1]
        assert prv[0] == prv[1]
        assert abs(rdp[2] - rdp[3]) < 1e-6 * rdp[2]
        row = "  ".join(f"{one:8.4f}" for one in [*rdp, *prv])
        print(f"{sigma:5.1f}  {rate:4.2f}  {steps:5d} | {row}", flush=True)


if __name__ == "__main__":
    main()
