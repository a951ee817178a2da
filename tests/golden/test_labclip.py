"""The binding map against the figures: loss, gradient, mapped text and accuracy; every case from the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.labclip import LinearBindingMap, binding_accuracy

V = load("labclip")
CLOSE = V.meta["tolerance"]
CASES = sorted(
    match.groups()
    for name in V.arrays
    if (match := re.fullmatch(r"([^_]+)_(.+)_A", name)) and not match[2].endswith("_grad") and match[2] != "grad"
)
cases = pytest.mark.parametrize(("batch", "name"), CASES)


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


def rows(batch: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tensor(f"{batch}_img"), tensor(f"{batch}_txt"), tensor(f"{batch}_neg")


def fitted(batch: str, name: str) -> LinearBindingMap:
    matrix = tensor(f"{batch}_{name}_A")
    return LinearBindingMap(len(matrix), init=matrix)


def test_there_are_cases():
    assert CASES


@cases
def test_loss_and_gradient(batch: str, name: str):
    binding = fitted(batch, name)
    loss = binding.loss(*rows(batch), logit_scale=float(V[f"{batch}_scale"]))
    loss.backward()
    if f"{batch}_{name}_loss" in V:
        np.testing.assert_allclose(loss.item(), V[f"{batch}_{name}_loss"], **CLOSE)
    if f"{batch}_{name}_grad_A" in V:
        np.testing.assert_allclose(binding.matrix.grad.numpy(), V[f"{batch}_{name}_grad_A"], **CLOSE)


@cases
def test_mapped_text(batch: str, name: str):
    if f"{batch}_{name}_txt_out" in V:
        mapped = fitted(batch, name)(tensor(f"{batch}_txt")).detach()
        np.testing.assert_allclose(mapped.numpy(), V[f"{batch}_{name}_txt_out"], **CLOSE)


@cases
def test_binding_accuracy(batch: str, name: str):
    if f"{batch}_{name}_binding_acc" in V:
        image, text, text_neg = rows(batch)
        binding = fitted(batch, name)
        found = binding_accuracy(image, binding(text), binding(text_neg))
        np.testing.assert_allclose(found, V[f"{batch}_{name}_binding_acc"], **CLOSE)


@pytest.mark.parametrize("batch", sorted({batch for batch, _ in CASES}))
def test_the_identity_changes_no_caption(batch: str):
    image, text, text_neg = rows(batch)
    untouched = LinearBindingMap(text.shape[1])(text).detach()
    np.testing.assert_allclose(untouched.numpy(), text.numpy() / np.linalg.norm(text, axis=1)[:, None], **CLOSE)
    if f"{batch}_eye_binding_acc" in V:
        found = binding_accuracy(image, text, text_neg)
        np.testing.assert_allclose(found, V[f"{batch}_eye_binding_acc"], **CLOSE)
