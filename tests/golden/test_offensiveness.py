"""The released prompt tuning against ``tether.tasks.safety``: labels, splits, every epoch's prompts, what they say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from loading import load

from tether.methods.offensiveness import rated_splits, ratings_to_labels
from tether.tasks.safety import PromptClassifier, prompt_loss

V = load("offensiveness")
HYPER = V.meta["hyper"]
TOLERANCE = float((re.search(r"prompts (\S+)", V.meta.get("tolerance", "")) or ["", "1e-8"])[1])
CLOSE = {"rtol": TOLERANCE, "atol": TOLERANCE}


def rows() -> tuple[np.ndarray, np.ndarray]:
    V.need("X", "y")
    return V["X"].reshape(-1, V["X"].shape[-1]), V["y"].reshape(-1)


def classifier(epochs: int) -> PromptClassifier:
    V.need("prompts0")
    weights = [float(weight) for weight in V["class_weights"]] if "class_weights" in V else "balanced_other"
    return PromptClassifier(
        prompts=V["prompts0"],
        scale=float(HYPER.get("scale", 100.0)),
        class_weight=weights,
        lr=float(HYPER["lr"]),
        momentum=float(HYPER["momentum"]),
        epochs=epochs,
        batch_size=V["X"].shape[1],
        order="given",
    )


@pytest.fixture(scope="module")
def tuned() -> PromptClassifier:
    V.need("prompts")
    return classifier(len(V["prompts"])).fit(*rows())


def test_labels_and_strata():
    V.need("means", "labels", "strata", "kept")
    found = ratings_to_labels(V["means"], low=HYPER["t_low"], high=HYPER["t_high"])
    np.testing.assert_array_equal(found.kept, V["kept"])
    np.testing.assert_array_equal(found.y, V["labels"])
    np.testing.assert_array_equal(found.strata, V["strata"])


def test_splits():
    V.need("labels", "strata")
    named = {"test_size", "seed"} & HYPER.keys()
    splits = rated_splits(
        V["labels"],
        strata=V["strata"],
        n_splits=int(HYPER["n_splits"]),
        train_size=float(HYPER["train_size"]),
        **{name: HYPER[name] for name in named},
    )
    assert [[split.train.tolist(), split.test.tolist()] for split in splits] == V.meta["splits"]


def test_class_weights_are_the_share_of_the_other_class():
    V.need("labels", "class_weights", "prompts0")
    # One pass over rows that all look the same way; only the counts of the labels matter for the weights.
    labels = V["labels"]
    features = np.tile(V["prompts0"][:1], (len(labels), 1))
    given = classifier(1).set_params(batch_size=len(labels))
    own = PromptClassifier(**given.get_params()).set_params(class_weight="balanced_other")
    np.testing.assert_allclose(own.fit(features, labels).prompts_, given.fit(features, labels).prompts_, **CLOSE)


def test_prompts_after_every_epoch():
    V.need("prompts")
    features, y = rows()
    started = classifier(0).fit(features, y)
    for epoch, expected in enumerate(V["prompts"]):
        started.partial_fit(features, y)
        np.testing.assert_allclose(started.prompts_, expected, err_msg=f"epoch {epoch + 1}", **CLOSE)
    assert started.epoch_ == len(V["prompts"])


def test_fit_ends_where_the_release_does(tuned):
    np.testing.assert_allclose(tuned.prompts_, V["prompts"][-1], **CLOSE)


def test_steps_are_the_released_gradients():
    """SGD from a standstill: the first batch moves the prompts by lr times the gradient."""
    V.need("prompts0", "class_weights")
    X, y = V["X"][0], V["y"][0]
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    found = prompt_loss(
        V["prompts0"].astype(np.float64),
        features=unit,
        y=y,
        class_weight=V["class_weights"],
        scale=float(HYPER.get("scale", 100.0)),
    )
    one = classifier(1).set_params(class_weight=V["class_weights"].tolist())
    one = one.fit(X, y) if len(np.unique(y)) > 1 else one.set_params(epochs=0).fit(*rows()).partial_fit(X, y)
    np.testing.assert_allclose(one.prompts_, V["prompts0"] - HYPER["lr"] * found.gradient, **CLOSE)


def test_probabilities(tuned):
    V.need("probs")
    np.testing.assert_allclose(tuned.predict_proba(rows()[0]), V["probs"], rtol=0, atol=TOLERANCE)


def test_accuracy_and_confusion(tuned):
    found = tuned.report(*rows())
    assert found.confusion.tolist() == V.meta["confusion"]
    np.testing.assert_allclose(100 * found.accuracy, V.meta["accuracy"], rtol=1e-6)
