"""The norm, the weights and the share of clipped samples of forty rounds, by a transcription of our own rule."""

from __future__ import annotations

import pytest
import torch
from loading import load

from tether.methods.dpfl_moo_clip import MooClipSchedule, clip_factors, noisy_clipped_share

V = load("dpfl-moo-clip")
HYPER, CLOSE = V.meta["hyper"], {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}


def test_forty_rounds_of_softmax_regression() -> None:
    classes, width = V["w"].shape[1:]
    batch, sigma = HYPER["B"], float(HYPER["noise_multiplier"])
    schedule = MooClipSchedule(
        float(HYPER["C0"]),
        float(HYPER["kappa"]),
        noise_multiplier=sigma,
        dim=classes * width,
        batch_size=batch,
        lr=float(HYPER["lr_C"]),
        geometric=HYPER["geometric"],
        bounds=(HYPER["C_min"], HYPER["C_max"]),
        count_std=float(HYPER["count_std"]),
    )
    weight = torch.zeros(classes, width, dtype=torch.float64)
    x, labels, noise = (torch.from_numpy(V[name]) for name in ("X", "y", "Z"))
    for turn in range(HYPER["rounds"]):
        moved, shares = [], []
        for client in range(HYPER["clients"]):
            rows = torch.cat([x[turn, client], torch.ones(batch, 1, dtype=torch.float64)], dim=1)
            wrong = (rows @ weight.T).softmax(1) - torch.nn.functional.one_hot(labels[turn, client], classes)
            gradients = wrong[:, :, None] * rows[:, None]
            norms = gradients.flatten(1).norm(dim=1)
            torch.testing.assert_close(norms, torch.from_numpy(V["norms"][turn, client]), **CLOSE)
            clipped = torch.einsum("i,icd->cd", clip_factors(norms, schedule.c), gradients)
            moved.append(weight - HYPER["lr"] * (clipped + sigma * schedule.c * noise[turn, client]) / batch)
            drawn = HYPER["count_std"] * float(V["zb"][turn, client])
            shares.append(noisy_clipped_share(norms, schedule.c, batch_size=batch, noise=drawn))
        weight = torch.stack(moved).mean(0)
        share = sum(shares) / len(shares)
        assert share == pytest.approx(V["frac"][turn], rel=V.meta["rtol"], abs=V.meta["atol"])
        assert schedule.slope(share) == pytest.approx(V["gradC"][turn], rel=V.meta["rtol"], abs=V.meta["atol"])
        assert schedule.update(share) == pytest.approx(V["C"][turn], rel=V.meta["rtol"], abs=V.meta["atol"])
        torch.testing.assert_close(weight, torch.from_numpy(V["w"][turn]), **CLOSE)
