"""Long-CLIP's stretched positions, principal components, both parts of its loss with gradients, and short captions."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load

from tether.data.captions.first_sentence import first_sentence
from tether.losses import long_clip_loss, principal_components
from tether.losses.long_clip import WholeBatchWarning
from tether.models.towers.positions import stretch

V = load("long-clip")
CLOSE = {"rtol": V.meta["tolerance"]["float64"], "atol": V.meta["tolerance"]["float64"]}
NOTE = V.meta["notes"]["loss_*"]
K, SMOOTHING = (float(re.search(rf"{word}[ =]([\d.]*\d)", NOTE)[1]) for word in ("k", "label smoothing"))
KEEP = int(re.search(r"keep_len=(\d+)", V.meta["notes"]["pos_*"])[1])


def cases(pattern: str) -> list[str]:
    return sorted({found[1] for name in V.arrays if (found := re.fullmatch(pattern, name))})


@pytest.mark.parametrize("case", cases(r"pos_(\w+)_old"))
def test_positions(case: str) -> None:
    old, new = V[f"pos_{case}_old"], V[f"pos_{case}_new"]
    ratio = (len(new) - KEEP) // (len(old) - KEEP)
    found = stretch(torch.from_numpy(old), keep=KEEP, ratio=ratio)
    np.testing.assert_allclose(found.numpy(), new, **CLOSE)


@pytest.mark.filterwarnings("ignore::tether.losses.long_clip.WholeBatchWarning")
@pytest.mark.parametrize("case", cases(r"pca_(\w+)_x"))
def test_principal_components(case: str) -> None:
    found = principal_components(torch.from_numpy(V[f"pca_{case}_x"]), k=int(V[f"pca_{case}_k"]))
    np.testing.assert_allclose(found.numpy(), V[f"pca_{case}_y"], **CLOSE)


@pytest.mark.parametrize("case", cases(r"loss_([^_]+)_image"))
def test_loss_and_gradients(case: str) -> None:
    names = ("image", "text_long", "text_short", "logit_scale_log")
    leaves = {name: torch.from_numpy(np.array(V[f"loss_{case}_{name}"])).requires_grad_() for name in names}
    image, long, short = (F.normalize(leaves[name], dim=1) for name in names[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WholeBatchWarning)
        found = long_clip_loss(image, long, short, leaves["logit_scale_log"].exp(), k=int(K), label_smoothing=SMOOTHING)
    for part, text in (("long", "text_long"), ("short", "text_short")):
        loss = getattr(found, part)
        np.testing.assert_allclose(loss.item(), V[f"loss_{case}_{part}"], **CLOSE)
        wanted = {"image": leaves["image"], text: leaves[text], "scale": leaves["logit_scale_log"]}
        grads = torch.autograd.grad(loss, list(wanted.values()), retain_graph=True)
        for name, grad in zip(wanted, grads, strict=True):
            np.testing.assert_allclose(grad.numpy(), V[f"loss_{case}_grad{part}_{name}"], **CLOSE)
    assert found.total.item() == pytest.approx(found.long.item() + found.short.item())


def test_short_captions() -> None:
    V.need("short_caption_in", "short_caption_out")
    given, expected = (json.loads(str(V[f"short_caption_{end}"])) for end in ("in", "out"))
    assert [first_sentence(caption) for caption in given] == expected
