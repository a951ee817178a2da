"""Rendering, encoding, sampling, patches, deformation and code mapper of CLIP-NeRF, against given values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.clip_nerf import (
    CodeMapper,
    ConditionalField,
    patch_grid,
    positional_encoding,
    sample_pdf,
    volume_render,
)

V = load("clip-nerf")
HYPER = V.meta["hyper"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


@pytest.mark.parametrize("white", [False, True])
def test_rendering(white: bool) -> None:
    seen = volume_render(tensor("raw"), tensor("z"), tensor("dirs"), white=white)
    np.testing.assert_allclose(seen.rgb, V[f"rgb_white{int(white)}"], **CLOSE)
    for name in ("acc", "weights", "depth"):
        np.testing.assert_allclose(getattr(seen, name), V[name], **CLOSE)
    empty = ~np.isfinite(V["disparity"])  # the released code divides 0 by 0 where a ray meets nothing
    np.testing.assert_allclose(seen.disparity[~empty], V["disparity"][~empty], **CLOSE)
    assert (seen.disparity[empty] == 0).all()


def test_gradient() -> None:
    raw = tensor("raw").requires_grad_()
    volume_render(raw, tensor("z"), tensor("dirs"), white=True).rgb.square().sum().backward()
    assert raw.grad is not None
    np.testing.assert_allclose(raw.grad, V["grad_raw_white1"], **CLOSE)


def test_encoding() -> None:
    found = positional_encoding(
        tensor("points"), int(HYPER["encoding_freqs"]), include_input=bool(HYPER["include_input"])
    )
    np.testing.assert_allclose(found, V["encoding"], **CLOSE)
    found = positional_encoding(tensor("c_points"), int(HYPER["c_freqs"]), include_input=False)
    np.testing.assert_allclose(found, V["c_encoding"], **EXACT)


def test_sampling() -> None:
    found = sample_pdf(tensor("pdf_bins"), tensor("pdf_weights"), int(HYPER["pdf_n"]), det=bool(HYPER["pdf_det"]))
    np.testing.assert_allclose(found, V["pdf_samples"], **CLOSE)


def test_patch() -> None:
    patch = HYPER["patch"]
    side = round(int(patch["n"]) ** 0.5)
    found = patch_grid(side, int(patch["iteration"]), generator=torch.Generator().manual_seed(int(patch["torch_seed"])))
    np.testing.assert_allclose(found, V["patch_grid"], **CLOSE)


def filled(layers: torch.nn.Sequential, prefix: str) -> None:
    weight, bias = ("_D", "_b") if prefix == "c" else ("_W", "_b")
    for number, layer in ((1, layers[0]), (2, layers[2])):
        layer.weight.data = tensor(f"{prefix}{weight}{number}")
        layer.bias.data = tensor(f"{prefix}{bias}{number}")


def test_deformation() -> None:
    field = ConditionalField(
        len(V["c_shape"]), len(V["c_appearance"]), int(HYPER["c_freqs"]), width=len(V["c_b1"])
    ).double()
    filled(field.deformation, "c")
    with torch.no_grad():
        found = field.deformed(tensor("c_points"), tensor("c_shape"))
    np.testing.assert_allclose(found, V["c_encoding_deformed"], **EXACT)


def test_code_mapper() -> None:
    mapper = CodeMapper(len(V["m_clip"]), len(V["c_shape"]), width=len(V["m_b1"])).double()
    filled(mapper.layers, "m")
    with torch.no_grad():
        np.testing.assert_allclose(mapper(tensor("m_clip"), tensor("c_shape")), V["m_code"], **EXACT)
