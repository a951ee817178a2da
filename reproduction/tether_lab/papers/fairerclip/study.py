"""FairerCLIP: codes of images and class texts that depend on the class and not on a shortcut."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

TRAIN, TEST, SHORTCUT = 600, 1600, 0.95
FEATURES = 3000
WATERBIRDS = {"tau_image": (0.7, 0.7), "tau_text": (0.1, 0.1), "gamma": (3e-4, 2e-4)}
"""With ``FEATURES`` random features of embeddings and of codes, the released settings for Waterbirds with ViT-L/14."""

CARD = Card.of(
    "fairerclip",
    claim=Claim(
        says="With a shortcut in 95 % of the training rows, the worst group of a balanced test set is predicted better "
        "than by logistic regression on the same embeddings.",
        metric="worst-group accuracy over shape and background",
        margin=0.15,
        baseline="logistic regression of scikit-learn on the same embeddings and classes",
        scale=f"embeddings of a tiny CLIP of 64 dimensions; {TRAIN} training and {TEST} balanced test images; the "
        f"class is which half of eight shapes, the shortcut a background; {FEATURES} random features",
        equal="training rows and their classes; neither side has a setting that was tried out",
        conditions=(
            Condition(
                says="The worst group is 20 points above that of zero-shot prediction.",
                than="worst_zero_shot",
                least=0.2,
            ),
            Condition(
                says="It is at least that of logistic regression which is given the same guess of the shortcut and "
                "weights the groups of class and guess equally.",
                than="worst_logistic_weighted",
            ),
            Condition(
                says="The accuracy averaged over groups is at least logistic regression's.",
                ours="average_fairer",
                than="average_logistic",
            ),
            Condition(
                says="The shortcut is visible, without which the claim does not apply: a linear probe tells it in 9 of "
                "10 test images.",
                ours="ground_visible",
                than=0.9,
            ),
        ),
    ),
    differences=(
        "Synthetic scenes stand in for Waterbirds and CelebA: each of two classes has four shapes, and a background as "
        "the shortcut.",
        "Eigenproblems are solved symmetrically in float64, where the released code calls a general solver in float32.",
        "Codes are compared as they are, as released; the offset that is drawn with the random features is taken off "
        "in a note only (centre='images').",
        "Only columns that are kept decide whether a map is turned; in the released code a column of zeros hides that.",
    ),
    tried={
        (
            "The same bed with 1000 random features and the mean image code taken off (centre='images'), which is "
            "not the paper's rule; chosen on a pilot with another seed, three seeds measured."
        ): (
            "Worst group 0.51 against 0.23 of logistic regression. With 1000 features and codes as released it "
            "was 0.19: 0.46, 0.04 and 0.06."
        ),
    },
    minutes=4.0,
)


def reproduce(lab: Lab) -> Trial:
    """Fit with the shortcut guessed by the model itself, as the paper does, and look at the worst group."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from sklearn.linear_model import LogisticRegression

    from tether.data.sets.scenes.captions import PLACES, with_article
    from tether.evaluate.groups import worst_group_accuracy
    from tether.methods.fairerclip import FairerClip
    from tether_lab.lab.trace import saw
    from tether_lab.worlds import biased_scenes

    model = biased_scenes.taught(lab)
    train, test = (
        biased_scenes.draw(lab, name, rows=rows, lean=lean)
        for name, rows, lean in (("few", lab.steps(TRAIN, 60), SHORTCUT), ("even", lab.steps(TEST, 60), 0.5))
    )
    each = biased_scenes.sentences(model, [with_article(name) for name in biased_scenes.SHAPES])
    text = F.normalize(each.view(2, -1, each.shape[1]).mean(dim=1), dim=1)
    grounds = biased_scenes.sentences(model, [PLACES[ground] for ground in biased_scenes.GROUNDS])
    seen, unseen = biased_scenes.images(model, train), biased_scenes.images(model, test)
    X, X_test = seen.numpy(), unseen.numpy()
    half = len(biased_scenes.SHAPES) // 2
    y, y_test = (train.shape >= half).long().numpy(), (test.shape >= half).long()
    guessed = (F.normalize(seen, dim=1) @ grounds.T).argmax(dim=1).numpy()

    features = lab.steps(FEATURES, 50)
    ours = FairerClip(
        n_features=features,
        n_code_features=features,
        random_state=lab.seed,
        **WATERBIRDS,  # pyrefly: ignore - fitting types each
    ).fit(X, y, s=guessed, text_features=text.numpy())
    linear = LogisticRegression(max_iter=2000).fit(X, y)
    group = 2 * y + guessed
    weighted = LogisticRegression(max_iter=2000).fit(X, y, sample_weight=len(y) / np.bincount(group)[group])
    attribute = LogisticRegression(max_iter=2000).fit(X, train.ground.numpy())
    zero_shot = (F.normalize(unseen, dim=1) @ text.T).argmax(dim=1)

    notes = {
        "guess_right": float((guessed == train.ground.numpy()).mean()),
        "ground_visible": float((attribute.predict(X_test) == test.ground.numpy()).mean()),
        "agreement": float((y == train.ground.numpy()).mean()),
    }
    worst = {}
    said = {name: one.predict(X_test) for name, one in (("logistic", linear), ("logistic_weighted", weighted))}
    said |= {"fairer": ours.predict(X_test), "zero_shot": zero_shot.numpy()}
    saw(torch.as_tensor(ours.transform_image(X_test)))
    said["fairer_centred"] = ours.set_params(centre="images").predict(X_test)
    for name, predicted in said.items():
        found = worst_group_accuracy(np.asarray(predicted), labels=y_test, attribute=test.ground)
        worst[name] = notes[f"worst_{name}"] = found.worst
        notes[f"average_{name}"] = found.average
    return Trial(worst["logistic"], worst["fairer"], notes)
