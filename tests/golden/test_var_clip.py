"""Codewords of all scales, their gradients, logits, the sampler and a whole greedy path, against the figures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from loading import load

from tether.generation.autoregress.sampling import kept, sample
from tether.generation.autoregress.transformer import ScaleTransformer
from tether.models.latent.quantizer import MultiScaleQuantizer

V = load("var-clip")
HYPER = V.meta["hyper"]
SCALES = tuple(HYPER["patch_nums"])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


@pytest.fixture(scope="module")
def quantizer() -> MultiScaleQuantizer:
    made = MultiScaleQuantizer(
        vocab=int(HYPER["vocab"]),
        channels=int(HYPER["channels"]),
        scales=SCALES,
        znorm=bool(HYPER["using_znorm"]),
        phi=int(HYPER["share_quant_resi"]),
        ratio=float(HYPER["quant_resi"]),
        beta=float(HYPER["beta"]),
    )
    state = {"codewords": tensor("codebook")}
    weights, biases = (
        tensor("phi_weight").unflatten(-4, (-1, made.channels)),
        tensor("phi_bias").view(-1, made.channels),
    )
    for number, (weight, bias) in enumerate(zip(weights.flatten(0, -5), biases, strict=True)):
        state |= {f"phi.{number}.weight": weight, f"phi.{number}.bias": bias}
    made.load_state_dict({**made.state_dict(), **state})
    return made.eval()


@pytest.fixture(scope="module")
def transformer() -> ScaleTransformer:
    made = ScaleTransformer(
        cond_dim=int(HYPER["embed"]),
        width=int(HYPER["width"]),
        depth=int(HYPER["depth"]),
        heads=int(HYPER["heads"]),
        scales=SCALES,
        vocab=int(HYPER["vocab"]),
        channels=int(HYPER["channels"]),
        mlp_ratio=float(HYPER["mlp_ratio"]),
        unit=bool(HYPER["attn_l2_norm"]),
    )
    made.load_official_({name[4:]: tensor(name) for name in V.arrays if name.startswith("var/")})
    return made.eval()


def indices() -> list[torch.Tensor]:
    return list(tensor("indices").split([side**2 for side in SCALES], dim=1))


def test_convolution_of_each_scale(quantizer: MultiScaleQuantizer) -> None:
    assert list(quantizer.phi_of_scale) == V["phi_of_scale"].tolist()


def test_codewords(quantizer: MultiScaleQuantizer) -> None:
    found = quantizer.encode(tensor("features"))
    assert torch.equal(torch.cat(found, dim=1), tensor("indices"))
    for made, wanted in zip(quantizer.partial(found), V["f_hat_per_scale"], strict=True):
        np.testing.assert_allclose(made.detach().numpy(), wanted, **CLOSE)
    np.testing.assert_allclose(quantizer.decode(found).detach().numpy(), V["f_hat"], **CLOSE)
    np.testing.assert_allclose(quantizer.teacher_input(found).detach().numpy(), V["var_input"], **CLOSE)


def test_penalty_and_gradients(quantizer: MultiScaleQuantizer) -> None:
    features = tensor("features").requires_grad_()
    made, penalty = quantizer(features)
    np.testing.assert_allclose(made.detach().numpy(), V["f_hat"], **CLOSE)
    np.testing.assert_allclose(penalty.item(), V["vq_loss"], **CLOSE)
    of_features, of_codewords = torch.autograd.grad(penalty, [features, quantizer.codewords])
    np.testing.assert_allclose(of_features.numpy(), V["grad_features"], **CLOSE)
    np.testing.assert_allclose(of_codewords.numpy(), V["grad_codebook"], **CLOSE)


def test_logits_and_loss(quantizer: MultiScaleQuantizer, transformer: ScaleTransformer) -> None:
    assert torch.equal(transformer.mask, tensor("mask"))
    with torch.no_grad():
        found = transformer(tensor("var_input"), tensor("text"))
    np.testing.assert_allclose(found.numpy(), V["logits"], **CLOSE)
    loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), tensor("indices").flatten())
    np.testing.assert_allclose(loss.item(), V["loss"], **CLOSE)


def test_greedy_path(quantizer: MultiScaleQuantizer, transformer: ScaleTransformer) -> None:
    found = sample(transformer, quantizer, tensor("text"), cfg=2.0, top_k=1)
    np.testing.assert_allclose(((found + 1) / 2).numpy(), V["greedy_cfg2_fhat_halved"], **CLOSE)


def test_step_by_step_as_all_at_once(quantizer: MultiScaleQuantizer, transformer: ScaleTransformer) -> None:
    about, memory, found, ends = transformer.about(tensor("text")), [], [], np.cumsum([0, *transformer.lengths])
    for level, (first, end) in enumerate(pairwise(ends.tolist())):
        told = tensor("var_input")[:, first - SCALES[0] ** 2 : end - SCALES[0] ** 2] if level else None
        found.append(transformer.step(about, told, level=level, memory=memory))
    np.testing.assert_allclose(torch.cat(found, dim=1).detach().numpy(), V["logits"], **CLOSE)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("keep_topk5", {"top_k": 5}), ("keep_topp6", {"top_p": 0.6}), ("keep_k8_p5", {"top_k": 8, "top_p": 0.5})],
)
def test_what_may_be_drawn(name: str, settings: dict[str, float]) -> None:
    assert torch.equal(kept(tensor("filter_logits"), **settings), tensor(name))
