"""AnomalyCLIP's prompts, features, maps and losses against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from open_clip_names import clip_of
from tether.losses.defects import defect_loss
from tether.losses.masks import dice_loss, focal_loss
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.value_attention import text_maps, text_probabilities, value_attention_features
from tether.models.texts.prompts import Prompts
from tether.models.towers.clip import Clip

V = load("anomalyclip")
HYPER = V.meta["hyper"]
RTOL = 1e-6
TAU, LAMBDA = float(V.meta["temperature"]), float(V.meta["lam"])
LAYERS = [int(number) - 1 for number in HYPER["features"]]
CHANGED, DEPTH = int(HYPER["dpam"]) - 1, int(HYPER["layers"])
SIZE = (int(HYPER["image"]), int(HYPER["image"]))
GRID = (SIZE[0] // int(HYPER["patch"]), SIZE[1] // int(HYPER["patch"]))


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def check(ours: Tensor | np.ndarray, name: str) -> None:
    found = ours.detach().numpy() if isinstance(ours, Tensor) else ours
    np.testing.assert_allclose(found, V[name], rtol=RTOL, atol=RTOL * 0.1, err_msg=name)


def part(prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): array(name) for name in V.arrays if name.startswith(prefix)}


@pytest.fixture(scope="module")
def model() -> Clip:
    """The file's towers; of its words only those of the prompts have rows."""
    texts = {name.replace("resblocks", "transformer.resblocks", 1): value for name, value in part("text/").items()}
    table = torch.zeros(49408, int(HYPER["twidth"]), dtype=torch.float64)
    for kind, row in (("pos", 0), ("neg", 1)):
        ids, length = V["tokens"][row].astype(np.int64), int(HYPER["n_ctx"])
        table[ids[:1]] = array(f"prefix_{kind}")
        table[ids[1 + length :]] = array(f"suffix_{kind}")
    made = clip_of(
        part("vis/"),
        heads=int(HYPER["heads"]),
        activation="quick_gelu",
        text=texts | {"token_embedding.weight": table},
        text_heads=int(HYPER["heads"]),
    )
    if made.image_spec.size != SIZE:
        made = made.resized(image_size=SIZE, how="bilinear")
    return made


@pytest.fixture
def prompts(model: Clip) -> Prompts:
    made = Prompts(
        model,
        {"normal": "object.", "abnormal": "damaged object."},
        context=int(HYPER["n_ctx"]),
        per_class=True,
        deep=int(HYPER["depth"]) - 1,
        deep_length=int(HYPER["t_n_ctx"]),
    ).double()
    vectors = torch.stack([array("ctx_pos"), array("ctx_neg")])[:, None]
    made.load_state_dict({"vectors": vectors, "deep": array("deep_prompts")})
    return made


def test_prompts(model: Clip, prompts: Prompts) -> None:
    words = prompts.slots.numpy() < 0
    np.testing.assert_array_equal(prompts.ids.numpy()[words], V["tokens"][:, : prompts.ids.shape[1]][words])
    found = prompts().pooled
    check(found, "text_raw")
    check(F.normalize(found, dim=1), "text_features")


def test_features(model: Clip) -> None:
    found = value_attention_features(model, array("image"), blocks=CHANGED, layers=LAYERS)
    check(found.image, "image_features")
    for number, patches in enumerate(found.patches):
        np.testing.assert_allclose(patches.detach(), V[f"patch_features_{number}"][:, 1:], rtol=RTOL, atol=1e-7)


def test_features_of_the_variant_with_feed_forward_nets(model: Clip) -> None:
    """Each block begins at the unchanged stream; the first has no net."""
    for number, layer in enumerate(LAYERS):
        first = DEPTH - CHANGED
        path = DensePath(kind="v", start=layer, feed_forward=layer > first) if layer >= first else None
        found = dense_image(model, array("image"), layer=layer, path=path).tokens
        assert found is not None
        np.testing.assert_allclose(found.detach(), V[f"patch_features_ffn_{number}"][:, 1:], rtol=RTOL, atol=1e-7)


def test_scores_losses_and_gradients(model: Clip, prompts: Prompts) -> None:
    with torch.no_grad():
        found = value_attention_features(model, array("image"), blocks=CHANGED, layers=LAYERS)
    texts = prompts().pooled
    maps = text_maps(found.patches, texts, grid=GRID, size=SIZE, temperature=TAU)
    for number, one in enumerate(maps):
        check(one, f"map_{number}")
    logits = F.normalize(found.image, dim=1) @ F.normalize(texts, dim=1).T / TAU
    check(logits, "image_logits")
    check(text_probabilities(found.image, texts, temperature=TAU)[:, 1], "image_prob_abnormal")
    terms = defect_loss(logits, maps, labels=array("label"), masks=array("gt"), pixels=LAMBDA)
    check(terms.image, "image_loss")
    summed = torch.stack([terms.focal, terms.defective, terms.normal])
    np.testing.assert_allclose(summed.detach(), V["loss_terms"].sum(axis=0), rtol=RTOL)
    check(terms.total, "total_loss")
    terms.total.backward()
    assert prompts.vectors.grad is not None
    check(prompts.vectors.grad[0, 0], "grad_ctx_pos")
    check(prompts.vectors.grad[1, 0], "grad_ctx_neg")
    assert prompts.deep is not None
    assert prompts.deep.grad is not None
    np.testing.assert_allclose(
        prompts.deep.grad, V["grad_deep_prompts"], rtol=1e-3, atol=3e-3
    )  # rounded to 16 bits there


def test_focal_and_dice() -> None:
    given = array("focal_prob").requires_grad_()
    loss = focal_loss(given, array("focal_target").long())
    loss.backward()
    check(loss, "focal_loss")
    check(given.grad, "focal_grad")
    given = array("dice_prob").requires_grad_()
    loss = dice_loss(given, array("focal_target")).mean()
    loss.backward()
    check(loss, "dice_loss")
    check(given.grad, "dice_grad")
    nothing = torch.zeros(2, 5, 4, dtype=torch.float64)
    check(dice_loss(nothing, nothing).mean(), "dice_empty")
