"""MacCap's regions and noise against the released lines: settings and tolerances from the file."""

from __future__ import annotations

import re

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.tasks.caption import mix, noisy_copies, region_features

V = load("maccap")
HYPER = V.meta["hyper"]
CLOSE = {"rtol": float(re.findall(r"rtol ([\d.e+-]+)", V.meta["tolerance"])[0]), "atol": 1e-12}
NOISY = {"rtol": float(re.findall(r"noisy_text ([\d.e+-]+)", V.meta["tolerance"])[0]), "atol": 1e-6}


def tensor(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def test_regions_and_memory() -> None:
    regions, ids = region_features(tensor("attn"), tensor("tokens_proj"), k=HYPER["K"])
    assert np.array_equal(ids.numpy(), V["top_ids"])
    np.testing.assert_allclose(regions.numpy(), V["mixed"], **CLOSE)
    memory = mix(tensor("cls"), regions, weight=float(HYPER["infer_patch_weight"]))
    np.testing.assert_allclose(memory.numpy(), V["decoder_input_clean"], **CLOSE)


def test_noise() -> None:
    noise = tensor("noise")
    copies = noisy_copies(tensor("text"), noise.shape[1], variance=float(HYPER["noise_variance"]), noise=noise)
    np.testing.assert_allclose(copies.numpy(), V["noisy_text"], **NOISY)
    plain = noisy_copies(tensor("text"), noise.shape[1], variance=0.0)
    np.testing.assert_allclose(plain.numpy(), V["no_noise"], **NOISY)
