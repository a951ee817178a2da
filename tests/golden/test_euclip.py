"""Every geometry and every cone against the released code: similarities, losses and gradients of euclip.npz."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.core.geometry import factors, pairwise_similarity, place
from tether.methods.euclip import entailment, geometry_loss

V = load("euclip")
CLOSE = V.meta["tolerance"]
SPLIT = re.compile(r"(?P<batch>[^_]+)_(?P<geometry>[a-z-]+)(?:_K(?P<radius>.+))?")
CASES = {name: (SPLIT.fullmatch(name), settings) for name, settings in V.meta["cases"].items()}
PLAIN = [name for name, (found, _) in CASES.items() if found is not None and found["radius"] is None]
CONES = [name for name, (found, _) in CASES.items() if found is not None and found["radius"] is not None]


def close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, **CLOSE)


class Case:
    """The leaves and settings of one case; a case with a cone takes scale and curvature from the one without."""

    def __init__(self, name: str) -> None:
        found, self.settings = CASES[name]
        batch, self.geometry = found["batch"], found["geometry"]
        plain: dict[str, Any] = V.meta["cases"].get(f"{batch}_{self.geometry}", {}) | self.settings
        self.name = name
        self.img, self.txt = (
            torch.from_numpy(V[f"{batch}_{side}"].copy()).requires_grad_() for side in ("raw_img", "raw_txt")
        )
        self.scale = torch.tensor(float(plain["logit_scale"]), dtype=torch.float64, requires_grad=True)
        c = plain.get("curvature")
        self.curvature = None if c is None else torch.tensor(float(c), dtype=torch.float64, requires_grad=True)
        self.points = [
            place(side, geometry=self.geometry, scale=plain.get("dim_scale")) for side in (self.img, self.txt)
        ]

    def gradients(self, loss: Tensor) -> None:
        leaves = {"raw_img": self.img, "raw_txt": self.txt, "scale": self.scale, "curvature": self.curvature}
        wanted = {k: leaf for k, leaf in leaves.items() if leaf is not None and f"{self.name}_grad_{k}" in V}
        for key, grad in zip(wanted, torch.autograd.grad(loss, tuple(wanted.values())), strict=True):
            close(grad, V[f"{self.name}_grad_{key}"])


def test_there_are_cases() -> None:
    assert PLAIN or CONES


@pytest.mark.parametrize("name", PLAIN)
def test_similarity(name: str) -> None:
    case = Case(name)
    if f"{name}_sim" in V:
        close(pairwise_similarity(*case.points, geometry=case.geometry, curvature=case.curvature), V[f"{name}_sim"])
        rows = factors(*case.points, geometry=case.geometry, curvature=case.curvature)
        if rows is not None:
            close(rows[0] @ rows[1].T, V[f"{name}_sim"])


@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradients(name: str) -> None:
    case = Case(name)
    terms = geometry_loss(*case.points, case.scale, geometry=case.geometry, curvature=case.curvature)
    close(terms.contrastive, V[f"{name}_loss"])
    assert torch.equal(terms.total, terms.contrastive)
    case.gradients(terms.total)


@pytest.mark.parametrize("name", CONES)
def test_entailment(name: str) -> None:
    case = Case(name)
    weight, radius = float(case.settings["entailment_weight"]), float(case.settings["K"])
    shape = {"geometry": case.geometry, "min_radius": radius, "curvature": case.curvature}
    each = entailment(case.points[1], specific=case.points[0], **shape)
    if f"{name}_entail_each" in V:
        close(each, V[f"{name}_entail_each"])
    terms = geometry_loss(*case.points, case.scale, entailment_weight=weight, **shape)
    if f"{name}_entail_loss" in V:
        close(terms.entailment, V[f"{name}_entail_loss"])
    close(terms.total, V[f"{name}_total"])
    case.gradients(terms.total)
