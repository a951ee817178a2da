"""CLOC's prompter and losses against an independent transcription: every array of the file, at its tolerance."""

from __future__ import annotations

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.losses import box_distance_loss, region_contrast_loss
from tether.models.heads.prompter import Prompter

V = load("cloc")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
NAMES = {
    "in_proj": "corners", "qkv": "qkv", "out": "out", "ln1": "norm1", "ln2": "norm2", "fc1": "feed_forward.0",
    "fc2": "feed_forward.2", "box1": "box.0", "box2": "box.2",
}  # fmt: skip


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].astype(np.float64))


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-2)


def prompter() -> Prompter:
    dim = int(HYPER["dim"])
    ratio = len(V["w/fc1_b"]) / dim
    made = Prompter(dim, heads=int(HYPER["heads"]), fourier=int(HYPER["freqs"]), mlp_ratio=ratio).double()
    state = {}
    for theirs, ours in NAMES.items():
        state[f"{ours}.weight"] = array(f"w/{theirs}_w" if f"w/{theirs}_w" in V else f"w/{theirs}")
        state[f"{ours}.bias"] = array(f"w/{theirs}_b")
    made.load_state_dict(state)
    return made


def test_regions_grounding_losses_and_gradient() -> None:
    made, tokens = prompter(), array("tokens").requires_grad_()
    boxes, text = array("boxes"), array("region_text")
    valid, ids = torch.from_numpy(V["valid"]), torch.from_numpy(V["caption_ids"])
    check(made.corners(made._features(boxes)), "prompt")
    regions = made.region(tokens, boxes)
    check(regions, "region")
    pred = made.ground(tokens, text)
    check(pred, "pred_boxes")
    contrast = region_contrast_loss(regions, text, float(HYPER["scale"]), ids=ids, valid=valid)
    distance = box_distance_loss(pred, boxes, valid=valid)
    check(contrast, "loss_region_text")
    check(distance, "loss_grounding")
    total = float(HYPER["lambda_region"]) * (contrast + distance)
    check(total, "total")
    check(torch.autograd.grad(total, tokens)[0], "grad_tokens")


def test_only_valid_boxes_are_looked_at() -> None:
    made, tokens, boxes = prompter(), array("tokens"), array("boxes")
    valid = torch.from_numpy(V["valid"])
    found = made.region(tokens, boxes * valid[..., None], valid=valid)
    np.testing.assert_allclose(found[valid].detach().numpy(), V["region"][V["valid"]], rtol=RTOL)
    assert not found[~valid].any()


def test_logits() -> None:
    valid, scale = torch.from_numpy(V["valid"]), float(HYPER["scale"])
    regions = prompter().region(array("tokens"), array("boxes"))[valid]
    check(scale * regions @ array("region_text")[valid].T, "logits")
    ids = torch.from_numpy(V["caption_ids"])[valid]
    alike = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)
    np.testing.assert_array_equal(alike.numpy(), V["same_caption"])
