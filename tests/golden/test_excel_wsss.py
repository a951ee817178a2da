"""ExCEL's features, texts, maps, affinities, refinement and losses against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from open_clip_names import clip_of
from tether.losses import affinity_loss
from tether.losses.patch_affinity import halved_cross_entropy
from tether.methods.excel_wsss.class_maps import class_maps, self_correlation_features
from tether.methods.excel_wsss.map_refinement import mean_attention, transition
from tether.methods.excel_wsss.patch_relation import predicted_affinity, relation_weights
from tether.methods.excel_wsss.text_attributes import enrich_texts
from tether.models.features.attention_maps import maps_and_stream
from tether.models.towers.clip import Clip

V = load("excel-wsss")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
CHANGED, CLASSES = int(HYPER["surgery_layers"]) - 1, int(HYPER["classes"])


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 0.1, err_msg=name)


def patches(name: str) -> Tensor:
    return array(name).flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def model() -> Clip:
    weights = {name.removeprefix("vis/"): array(name) for name in V.arrays if name.startswith("vis/")}
    return clip_of(weights, heads=int(HYPER["heads"]), activation="quick_gelu")


def test_patches(model: Clip) -> None:
    check(self_correlation_features(model, array("image"), blocks=CHANGED), "dense")
    relation = relation_weights(patches("ex_feats"), over="batch")
    check(self_correlation_features(model, array("image"), blocks=CHANGED, relation=relation), "dense_calibrated")


def test_attention_and_what_it_leads_to(model: Clip) -> None:
    found, stream = maps_and_stream(model, array("image"), rows="all")
    plain = found.shape[1] - CHANGED
    both = torch.cat([found[:, :plain].mean(dim=2), found[:, plain:].sum(dim=2)], dim=1)
    check(both.transpose(0, 1), "attn")
    check(stream.x, "feats_last")
    check(transition(mean_attention(array("attn")[:, 0, 1:, 1:])), "trans_mat")


def test_texts() -> None:
    classes = array("text")[:CLASSES]
    enriched = enrich_texts(classes, array("attr_bank").T, keep=float(HYPER["topk"]))
    check(torch.cat([enriched, array("text")[CLASSES:]]), "text_enriched")


@pytest.mark.parametrize(("name", "features"), [("maps", "dense"), ("maps_calibrated", "dense_calibrated")])
def test_maps(name: str, features: str) -> None:
    check(class_maps(array(features), array("text_enriched"), classes=CLASSES), name)


def test_affinity_and_its_loss() -> None:
    check(predicted_affinity(patches("ex_feats"), over="batch"), "affinity_pred")
    predicted = array("affinity_pred").requires_grad_()
    loss = affinity_loss(predicted, array("aff_target"))
    loss.backward()
    check(loss, "aff_loss")
    check(predicted.grad, "aff_grad")


def test_loss_of_classes() -> None:
    logits = array("seg_logits").requires_grad_()
    loss = halved_cross_entropy(logits, array("seg_label"))
    loss.backward()
    check(loss, "seg_loss")
    check(logits.grad, "seg_grad")
