"""RegionCLIP's labels, losses and gradients against the released code: every case of the file, at its tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.losses import clip_loss, concept_distill_loss, concept_labels, region_contrast_loss

V = load("regionclip")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
PREFIXES = sorted(name.removesuffix("student_regions") for name in V.arrays if name.endswith("student_regions"))
CASES = [prefix for prefix in PREFIXES if not prefix.endswith("grad_")]


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].astype(np.float64))


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("prefix", CASES)
def test_labels_losses_and_gradients(prefix: str) -> None:
    labels = concept_labels(
        array(f"{prefix}teacher_regions"),
        array(f"{prefix}teacher_concepts"),
        temperature=float(HYPER["teacher_temp"]),
        threshold=float(HYPER["threshold"]),
    )
    np.testing.assert_array_equal(labels.keep.numpy(), V[f"{prefix}keep"])
    check(labels.probs[labels.keep], f"{prefix}teacher_probs_kept")
    index = labels.index[labels.keep]
    np.testing.assert_array_equal(index.numpy(), V[f"{prefix}target_index_kept"])
    np.testing.assert_array_equal((index[:, None] == index).numpy(), V[f"{prefix}label_matrix"] > 0)
    regions, concepts, temperature = (
        array(f"{prefix}student_regions").requires_grad_(),
        array(f"{prefix}concepts"),
        float(HYPER["temp"]),
    )
    distill = concept_distill_loss(regions, concepts, labels, temperature=temperature)
    contrast = region_contrast_loss(
        F.normalize(regions, dim=1),
        F.normalize(concepts, dim=1)[labels.index],
        1 / temperature,
        ids=labels.index,
        valid=labels.keep,
        equal="any",
        ways="regions",
    )
    for loss, name in ((distill, "distill"), (contrast, "contrastive")):
        check(loss, f"{prefix}loss_{name}")
        check(torch.autograd.grad(loss, regions)[0], f"{prefix}grad_{name}")
    images, texts = array(f"{prefix}image_feats").requires_grad_(), array(f"{prefix}text_feats")
    pairs = clip_loss(F.normalize(images, dim=1), F.normalize(texts, dim=1), 1 / temperature)
    check(pairs, f"{prefix}loss_image_text")
    check(torch.autograd.grad(pairs, images)[0], f"{prefix}grad_image_text")
    check(distill + contrast + pairs, f"{prefix}total")


def test_there_are_cases() -> None:
    assert CASES
