"""GDA against its released code: a few shots, classes without images, and the EM of the paper."""

import re

import numpy as np
import pytest
from loading import load

from tether.methods.gda import GDAClassifier

V = load("gda")
HYPER = V.meta["hyper"]
RTOL, ATOL = (float(found) for found in re.search(r"rtol ([\d.e-]+), atol ([\d.e-]+)", V.meta["tolerance"]).groups())
SETTINGS = {"logit_scale": float(HYPER["logit_scale"]), "alphas": tuple(map(float, HYPER["alphas"]))}


def close(actual, name):
    np.testing.assert_allclose(actual, V[name], rtol=RTOL, atol=ATOL)


def fitted(**settings):
    head = GDAClassifier(**SETTINGS, **settings)
    validation = (V["val_features"], V["val_labels"])
    classes = np.arange(HYPER["C"])
    text_weights = V["clip_weights"].T
    return head.fit(V["fs_features"], V["fs_labels"], text_weights=text_weights, classes=classes, validation=validation)


def test_few_shots():
    head = fitted()
    close(head.means_, "fs_mus")
    close(head.precision_, "fs_precision")
    close(head.coef_.T, "fs_W")
    close(head.intercept_, "fs_b")
    assert head.alpha_ == V["fs_alpha"]
    close(100 * head.validation_accuracy_, "fs_val_acc")
    close(head.logits(V["test_features"]), "fs_test_logits")


@pytest.fixture(scope="module")
def base():
    return fitted(precision="mean_class_pinv")


def test_base_classes(base):
    close(base.precision_, "bn_base_precision")
    close(base.coef_.T, "bn_base_W")
    close(base.intercept_, "bn_base_b")
    assert base.alpha_ == V["bn_alpha"]


def test_classes_without_images(base):
    new = base.extend(
        V["fs_features"],
        text_weights=V["bn_clip_weights_new"].T,
        classes=[f"new {number}" for number in range(HYPER["C_new"])],
        k=HYPER["K_NN"],
        text_copies=HYPER["text_copies_in_mean"],
    )
    close(new.means_, "bn_mu_new")
    close(new.precision_, "bn_precision_new")
    close(new.coef_.T, "bn_W_new")
    close(new.intercept_, "bn_b_new")
    close(new.logits(V["bn_test_features_new"]), "bn_new_logits")


def test_without_labels():
    text_weights = V["clip_weights"].T
    one, all_ = (
        GDAClassifier(alpha=1.0, **SETTINGS).fit_unlabelled(V["fs_features"], text_weights=text_weights, n_iter=rounds)
        for rounds in (1, int(V["em_iters"]))
    )
    for head, name in ((one, "em_posterior_iter1"), (all_, "em_posterior")):
        scores = head.discriminant(V["fs_features"])
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        close(shares / shares.sum(axis=1, keepdims=True), name)
    close(all_.means_, "em_mu")
    close(all_.precision_, "em_precision")
    close(all_.coef_.T, "em_W")
    close(all_.intercept_, "em_b")
