"""AdaptCLIP's adapters in training and eval mode, their losses, gradients and statistics, and its fusion."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.losses.defects import defect_loss
from tether.methods.adaptclip.adapters import AdaptClip, Judged
from tether.methods.adaptclip.detector import EPS, fused_maps, image_scores
from tether.models.features.value_attention import ValueFeatures, text_logits, text_maps
from tether.models.heads.defect_adapters import ComparedPatches
from tether.tasks.anomaly.harmonic import harmonic_mean

V = load("adaptclip")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
SIZE = (int(HYPER["image"]),) * 2
GRID = (SIZE[0] // int(HYPER["patch"]),) * 2
LAYERS = int(HYPER["n_layers"])
THEIRS = {"down": "fc.0", "norm": "fc.1", "up": "fc.3"}
PARTS = {
    "visual.whole.": ("va/global_adapter.", THEIRS),
    "visual.patches.": ("va/local_adater.", THEIRS),
    "compare.norms.": ("pq/sharebn.", {}),
    "compare.places.": ("pq/local_adapter.0.", {}),
    "compare.whole.": ("pq/global_adapter.0.", {}),
}


def tensor(name: str) -> Tensor:
    value = torch.from_numpy(V[name].copy())
    return value.double() if value.is_floating_point() else value


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-2)


def adapters() -> AdaptClip:
    made = AdaptClip(
        tensor("static_text"),
        layers=LAYERS,
        reduction=int(HYPER["reduction"]),
        hidden=int(HYPER["mid"]),
        context=bool(HYPER["context"]),
        temperature=float(V.meta["temperature"]),
    ).double()
    state = {"fixed": tensor("static_text"), "learnt": tensor("learned_text")}
    for name in made.state_dict():
        for ours, (theirs, renamed) in PARTS.items():
            if name.startswith(ours):
                first, rest = name.removeprefix(ours).split(".", 1)
                state[name] = tensor(f"{theirs}{renamed.get(first, first)}.{rest}")
    made.load_state_dict(state)
    return made


def by_texts(made: AdaptClip) -> list[Judged]:
    """The released code has the class token among the patches when it moves them, and drops it then."""
    image, tokens = tensor("query_global"), tensor("query_patches")[-1]
    moved, patches = made.visual.whole(image), made.visual.patches(tokens)
    return [judged(moved, patches[:, 1:], made.fixed), judged(image, tokens[:, 1:], made.learnt)]


def judged(image: Tensor, patches: Tensor, texts: Tensor) -> Judged:
    temperature = float(V.meta["temperature"])
    maps = text_maps(patches[None], texts, grid=GRID, size=SIZE, temperature=temperature)[0]
    return Judged(text_logits(image, texts, temperature=temperature), maps)


def by_good(made: AdaptClip) -> ComparedPatches:
    seen = ValueFeatures(tensor("query_global"), tensor("query_patches")[:, :, 1:])
    return made.compare(seen.patches, tensor("prompt_patches")[:, :, :, 1:], grid=GRID, size=SIZE)


def test_training() -> None:
    made = adapters().train()
    texts, compared = by_texts(made), by_good(made)
    for one, name in zip(texts, ("va", "tl"), strict=True):
        check(one.logits, f"train_{name}_logits")
        check(one.maps, f"train_{name}_map")
    check(compared.logits, "train_pq_logits")
    check(compared.maps, "train_pq_maps")
    check(compared.away[:, :, None], "align")
    every = [(one.logits, one.maps) for one in texts] + list(zip(compared.logits, compared.maps, strict=True))
    labels, masks = tensor("label"), tensor("gt")
    terms = [defect_loss(logits, maps[None], labels=labels, masks=masks, pixels=1.0) for logits, maps in every]
    check(torch.stack([one.image for one in terms]).sum(), "global_loss")
    check(torch.stack([one.focal + one.defective + one.normal for one in terms]).sum(), "local_loss")
    torch.stack([one.total for one in terms]).sum().backward()
    gradients = {name: one.grad for name, one in made.named_parameters()}
    for ours, name in (
        ("visual.patches.down.weight", "va_local_fc0"),
        ("compare.places.0.weight", "pq_conv0"),
        (f"compare.norms.{LAYERS - 1}.weight", "pq_sharebn_last"),
    ):
        found = gradients[ours]
        assert found is not None
        check(found, f"grad_{name}")
    state = made.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        check(state[f"compare.norms.0.{name}"], f"after/sharebn.0.{name}")
    for head in ("places.1", "places.5", "whole.1", "whole.4"):  # shared, so once for each block
        assert state[f"compare.{head}.num_batches_tracked"] == LAYERS


def test_eval_after_one_forward() -> None:
    made = adapters().train()
    by_texts(made), by_good(made)
    made.eval()
    texts, compared = by_texts(made), by_good(made)
    check(texts[0].logits, "eval_va_logits")
    for one, name in zip(texts, ("va", "tl"), strict=True):
        check(one.maps[:, 1], f"eval_{name}_map")
        check(one.logits.softmax(dim=1)[:, 1], f"eval_{name}_score")
    check(compared.maps[:, :, 1].mean(dim=0), "eval_pq_map")
    check(compared.logits.softmax(dim=2)[..., 1].mean(dim=0), "eval_pq_score")
    check(harmonic_mean(list(compared.away), eps=EPS), "align_fused")
    few, zero = fused_maps(texts, compared), fused_maps(texts)
    check(few, "few_map")
    check(image_scores(texts, compared, maps=few), "few_score")
    check(zero, "zero_map")
    check(image_scores(texts, None, maps=zero), "zero_score")


def test_maps_come_of_the_adapters_themselves() -> None:
    made = adapters().eval()
    seen = ValueFeatures(tensor("query_global"), tensor("query_patches")[:, :, 1:])
    first, second = made.by_texts(seen, grid=GRID, size=SIZE)
    moved = made.visual.whole(seen.image), made.visual.patches(seen.patches[-1])
    torch.testing.assert_close(first.maps, judged(*moved, made.fixed).maps)
    check(second.logits, "train_tl_logits")
    check(second.maps, "train_tl_map")
    assert F.cosine_similarity(moved[0], seen.image).min() < 1
