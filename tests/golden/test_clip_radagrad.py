from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loading import as_declared, load
from torch import Tensor, nn
from torch.optim import Optimizer

from tether.methods.clip_radagrad import ClipAdaGrad, ClipAdaGradD, ClipAdam, ClipAdamD, ClipRAdaGradD

V = load("clip-radagrad")
SHAPES = V.meta["shapes"]
CONFIGS = V.meta["configs"]
CLOSE = {"rtol": V.meta["rtol"], "atol": V.meta["atol"]}
SCALAR = [name for name in V.arrays if name.startswith("scalar_") and name != "scalar_noise"]
TORCH = list(CONFIGS.get("torch", {}))
VECTORS = [name for name in V.arrays if name.startswith("vec_")]
SCOPES = {"local": "tensor", "elementwise": "element", "no": "none"}
"""Our word for each released one; ``global`` is known to one class only, the others then do not clip."""
CLASSES: dict[str, tuple[type[Optimizer], str, dict, dict]] = {
    "AdamClip_Delayed_Etta": (ClipAdamD, "no", {"global": "none"}, {}),
    "AdaGradClip_Delayed_Etta": (ClipAdaGradD, "local", {"global": "global"}, {"direction": "previous"}),
    "AdagradClip": (ClipAdaGrad, "local", {"global": "none"}, {}),
    "AdamClip": (ClipAdam, "no", {"global": "none"}, {}),
}
"""Our class for each released one, that one's default clipping, its ``global``, and what brings ours to its quirk."""
OWN_NAMES = {
    "max_grad_norm": "clip",
    "etta": "eta",
    "exp_avg_sq_value": "v0",
    "correct_bias": "bias_correction",
}


def cut(row: np.ndarray) -> list[Tensor]:
    parts = torch.from_numpy(row.copy()).split([math.prod(shape) for shape in SHAPES])
    return [part.clone().view(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def flat(tensors: list) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


@pytest.mark.parametrize("name", SCALAR)
def test_the_notebook_on_one_number(name: str) -> None:
    """The name says what the method does: clip, r(e-weighted), d(elayed)."""
    settings = CONFIGS["scalar"]
    method = name.removeprefix("scalar_")
    x = nn.Parameter(torch.tensor([float(settings["start"])], dtype=torch.float64))
    optimizer = ClipRAdaGradD(
        [x],
        lr=float(settings["gamma"]),
        clip=float(settings["bound"]),
        clip_scope="global" if method.startswith("clip") else "none",
        eta=None if "radagrad" in method else 1.0,
        b0=float(settings["b0"]),
        delayed=method.endswith("d") and not method.endswith("adagrad"),
    )
    path = [float(x.detach())]
    for noise in V["scalar_noise"]:
        x.grad = x.detach() + noise
        optimizer.step()
        path.append(float(x.detach()))
    np.testing.assert_allclose(path, V[name], **CLOSE)


@pytest.mark.parametrize("name", TORCH)
def test_the_released_optimisers(name: str) -> None:
    official = max((known for known in CLASSES if name.startswith(known)), key=len)
    part, clipping, whole, quirks = CLASSES[official]
    given = {"clipping": clipping, **CONFIGS["torch"][name]}
    given.pop("quirk", None)
    scope = (SCOPES | whole)[given.pop("clipping")]
    settings = as_declared(part, {OWN_NAMES.get(key, key): value for key, value in given.items()})
    parameters = [nn.Parameter(part) for part in cut(V["p0"])]
    optimizer = part(parameters, clip_scope=scope, **settings, **quirks)
    path = []
    for row in V["grads"]:
        for parameter, gradient in zip(parameters, cut(row), strict=True):
            parameter.grad = gradient
        optimizer.step()
        path.append(flat(parameters))
    np.testing.assert_allclose(path, V[f"torch_{name}"], **CLOSE)


@pytest.mark.parametrize("name", VECTORS)
def test_the_paper_on_vectors(name: str) -> None:
    words = name.removeprefix("vec_").split("_")
    scopes = {**SCOPES, "tensor": "tensor", "element": "element", "global": "global"}
    known = ("lr", "clip", "eta", "b0", "eps", "clip_eps", "weight_decay")
    settings = as_declared(ClipRAdaGradD, {key: CONFIGS["vec"][key] for key in known if key in CONFIGS["vec"]})
    parameters = [nn.Parameter(part) for part in cut(V["p0"])]
    optimizer = ClipRAdaGradD(
        parameters,
        mode="norm" if "norm" in words else "coordinate",
        clip_scope=next((scopes[word] for word in words if word in scopes), "global"),
        delayed="nodelay" not in words,
        **settings,
    )
    path, roots = [], []
    for row in V["grads"]:
        for parameter, gradient in zip(parameters, cut(row), strict=True):
            parameter.grad = gradient
        optimizer.step()
        path.append(flat(parameters))
        roots.append(float(optimizer.b))
    np.testing.assert_allclose(path, V[name], **CLOSE)
    if (b := f"vecb_{name.removeprefix('vec_')}") in V:
        np.testing.assert_allclose(roots, V[b], **CLOSE)
