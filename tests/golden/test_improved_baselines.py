"""The strong recipe's loss and the losses beside it, with all parts and gradients, against the release's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.losses import RocketTerms, rocket_loss, siamese_loss
from tether.methods.improved_baselines import barlow_loss, prototype_swapped_loss, sinkhorn, swapped_loss

V = load("improved-baselines")
CLOSE = V.meta["tolerance"]["float64"]
HYPER = V.meta["hyper"]
TAGS = [name.removesuffix("_clip_loss") for name in V.arrays if name.endswith("_clip_loss")]
PARTS = {
    "clip_loss_image": "image",
    "clip_loss_text": "text",
    "clip_loss_image_global": "image_global",
    "clip_loss_text_global": "text_global",
    "clip_loss_image_local": "image_local",
    "clip_loss_text_local": "text_local",
}
"""The release's names of the parts, and ours."""
GLOBAL = {"z_image": "z_image_global", "z_text": "z_text_global"}
"""Inputs whose gradients have another name."""


def leaves(*names: str) -> dict[str, Tensor]:
    V.need(*names)
    return {name: torch.tensor(V[name], dtype=torch.float64, requires_grad=True) for name in names}


def close(found: Tensor, wanted: np.ndarray, said: str) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=CLOSE, atol=CLOSE, err_msg=said)


def rocket(given: dict[str, Tensor], *, reduction: str = "sum", smoothing: float = 0.1) -> RocketTerms:
    return rocket_loss(
        given["z_image"],
        given["z_text"],
        given["logit_scale"],
        local_image=given["h_image_local"],
        local_text=given["h_text_local"],
        local_scale=given["h_logit_scale"],
        reduction=reduction,
        label_smoothing=smoothing,
    )


COMMON = ("z_image", "z_text", "h_image_local", "h_text_local", "logit_scale", "h_logit_scale")
PROJECTED = ("v_image", "v_text", "v_image_local", "v_text_local")
PREDICTED = ("p_image", "p_text", "p_image_local", "p_text_local")


def barlip(given: dict[str, Tensor]) -> tuple[RocketTerms, Tensor]:
    own = HYPER["barlip"]
    images, texts = ([given[f"v_{side}"], *given[f"v_{side}_local"]] for side in ("image", "text"))
    pairs = [(images[0], texts[0]), *((one, other) for one in images[1:] for other in texts[1:])]
    losses = [barlow_loss(*pair, off_diagonal=own["lamb"], scale=own["scale_loss"]) for pair in pairs]
    return rocket(given), torch.stack(losses).mean()


def siamese(given: dict[str, Tensor], *, ending: str = "") -> tuple[RocketTerms, Tensor]:
    said = {side: [given[f"p_{side}"], *given[f"p_{side}_local"]] for side in ("image", "text")}
    wanted = {side: [given[f"v_{side}{ending}"], *given[f"v_{side}_local{ending}"]] for side in ("image", "text")}
    views = range(1, len(said["image"]))
    pairs = [(0, 0), *((one, other) for one in views for other in views)]
    losses = [siamese_loss(said["image"][one], wanted["text"][other]) for one, other in pairs]
    losses += [siamese_loss(said["text"][other], wanted["image"][one]) for one, other in pairs]
    return rocket(given), torch.stack(losses).mean()


def swalip(given: dict[str, Tensor]) -> tuple[RocketTerms, Tensor]:
    own = HYPER["swalip"]
    swapped = swapped_loss(
        given["h_image_local"],
        given["h_text_local"],
        given["h_logit_scale"],
        eps=own["target_epsilon"],
        iters=own["sk_iters"],
    )
    return rocket(given, smoothing=0.0), swapped


MOMENTUM = tuple(f"{name}_momentum" for name in PROJECTED)
BUILT = {
    "barlip": (barlip, (*COMMON, *PROJECTED), "barlip_loss", 1.0),
    "siamlip": (siamese, (*COMMON, *PROJECTED, *PREDICTED), "siamlip_loss", 1.0),
    "byolip": (lambda given: siamese(given, ending="_momentum"), (*COMMON, *MOMENTUM, *PREDICTED), "siamlip_loss", 1.0),
    "swalip": (swalip, COMMON, "swalip_loss", HYPER["swalip"]["swalip_weight"]),
}
"""Of each loss: how it is made, of which inputs, the name of its own part, and that part's weight."""


@pytest.mark.parametrize("tag", TAGS)
def test_parts_and_gradients(tag: str) -> None:
    if tag.startswith("cl2l"):
        _, reduction, smoothing = tag.split("_")
        given = leaves(*COMMON)
        terms = rocket(given, reduction={"avg": "mean"}.get(reduction, reduction), smoothing=int(smoothing[2:]) / 10)
        total, unweighted = terms.total, (terms.image + terms.text) / 2
    else:
        make, inputs, name, weight = BUILT[tag]
        given = leaves(*inputs)
        terms, own = make(given)
        close(own, V[f"{tag}_{name}"], name)
        total, unweighted = terms.total + weight * own, (terms.image + terms.text) / 2
    close(total, V[f"{tag}_loss"], "loss")
    close(unweighted, V[f"{tag}_clip_loss"], "clip_loss")
    for theirs, ours in PARTS.items():
        close(getattr(terms, ours), V[f"{tag}_{theirs}"], theirs)
    total.backward()
    for name, tensor in given.items():
        grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        wanted = f"{tag}_grad_{GLOBAL.get(name, name)}"
        if wanted in V:
            close(grad, V[wanted], wanted)
        else:
            assert not grad.any(), name  # a target gets none


def test_without_strong_views_it_is_plain_clip() -> None:
    given = leaves("z_image", "z_text", "logit_scale")
    close(rocket_loss(given["z_image"], given["z_text"], given["logit_scale"]).total, V["cl2l_noaug_loss"], "noaug")


def test_sinkhorn() -> None:
    own = HYPER["swalip"]
    scores = torch.tensor(V["sk_in"], dtype=torch.float64)
    close(sinkhorn(scores, eps=own["target_epsilon"], iters=own["sk_iters"]), V["sk_out"], "sk_out")


def test_prototypes() -> None:
    own = HYPER["swalipv1"]
    given = leaves("proto_image", "proto_text")
    loss = prototype_swapped_loss(
        given["proto_image"],
        given["proto_text"],
        temperature=1 / own["logit_scale"],
        eps=own["target_epsilon"],
        iters=own["sk_iters"],
    )
    close(loss, V["swalipv1_swalip_loss"], "swalip_loss")
    weak = leaves("z_image", "z_text", own["clip_logit_scale"])
    clip = rocket_loss(weak["z_image"], weak["z_text"], weak[own["clip_logit_scale"]]).total
    total = clip + own["weight"] * loss
    close(total, V["swalipv1_loss"], "loss")
    total.backward()
    for side in ("image", "text"):
        close(given[f"proto_{side}"].grad, V[f"swalipv1_grad_{side}"], side)


def test_every_array_is_looked_at() -> None:
    known = {*COMMON, *PROJECTED, *PREDICTED, *MOMENTUM, "proto_image", "proto_text", "sk_in", "sk_out"}
    endings = ("loss", *PARTS, "clip_loss", *(name for _, _, name, _ in BUILT.values()))
    made = {f"{tag}_{ending}" for tag in TAGS for ending in endings}
    made |= {f"{tag}_grad_{GLOBAL.get(name, name)}" for tag in TAGS for name in (*COMMON, *PROJECTED, *PREDICTED)}
    made |= {"cl2l_noaug_loss", *(f"swalipv1_{name}" for name in ("loss", "swalip_loss", "grad_image", "grad_text"))}
    assert set(V.arrays) <= known | made
