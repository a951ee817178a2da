"""Offensiveness in images: two prompt vectors tuned on a few ratings against a linear probe on the same encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether_lab.lab.lab import Lab

IMAGES, SHARE = 4_000, 0.7
FEW, SOME, MANY = (20, 40), 80, 400
"""Labels: at most 1 %, 2 % and 10 % of the images."""
SPLITS = 10
PROBE_C = 0.316  # of CLIP's own linear probes, arXiv 2103.00020, released code
CHOICES = (0.01, 0.1, PROBE_C, 1.0, 10.0, 100.0)
"""Values of C that cross-validation chooses from."""

CARD = Card.of(
    "offensiveness",
    claim=Claim(
        says="From at most 1 % of 4,000 rated images, two tuned prompts tell badly damaged things from sound ones "
        "better than a linear probe on the same frozen CLIP.",
        metric=f"balanced accuracy over {SPLITS} splits, mean of {FEW[0]} and {FEW[1]} labels, percentage points",
        margin=2.0,
        baseline=f"logistic regression (C = {PROBE_C}, balanced classes) on the same embeddings and labels",
        scale="tiny CLIP of 64 dimensions, 400 steps on scenes of 32 px whose captions sometimes say what state a "
        f"thing is in; {IMAGES} images with ratings from 1 to 5 of planted damage",
        equal="encoder, labels and splits; neither side has a setting that was tried out",
        conditions=(
            Condition(
                says=f"At {SOME} labels, 2 %, tuned prompts are 10 points above untuned ones.",
                ours=f"tuned_{SOME}",
                than="zero_shot",
                least=10.0,
            ),
            Condition(
                says="The untuned prompts are above 55 %, where 50 % is chance: without that the claim does not apply.",
                ours="zero_shot",
                than=55.0,
                least=1e-6,
            ),
            Condition(
                says=f"At {FEW[0]} and {FEW[1]} labels they are at least as good as a probe whose C is chosen by "
                "cross-validation on the same labels.",
                than="probe_chosen",
            ),
        ),
    ),
    differences=(
        "Damage planted in synthetic scenes, rated by its share of the thing's area with noise, stands in for moral "
        "ratings, which are not shipped. It shows the mechanism, not moral judgement.",
        "The start prompts say intact and damaged; where words do not name what is rated, the claim does not apply.",
        "The scale of the cosines is the small model's own, as 100 is that of the paper's CLIP.",
        "All arithmetic is in float64; the release tunes in float16.",
        "The probe is logistic regression; the release trains a linear layer by SGD.",
        "Fine-tuning a whole ImageNet model, which the paper compares too, is left out.",
    ),
    tried={
        (
            "Pilots on other seeds, in which the start prompts and the test bed were chosen, such as what captions "
            "say of the state and how often."
        ): (
            "With the paper's sentences, something positive and something negative, the untuned prompts were "
            "near chance, and the claim asks for prompts that carry signal. So the sentences name the damage."
        ),
        "The same bed with three seeds and without the conditions.": (
            "86.8 % against 85.8 % of the probe: -1.9, 3.0 and 1.8 points, not shown."
        ),
    },
    minutes=2.0,
)


def reproduce(lab: Lab) -> Trial:
    """Teach a model, rate images, and learn from few of them in both ways."""
    import numpy as np

    from tether.methods.offensiveness import rated_splits, ratings_to_labels
    from tether.tasks.safety import PromptClassifier
    from tether_lab.worlds import damage_ratings

    model = damage_ratings.taught(lab)
    images = damage_ratings.draw(lab, "graded", rows=lab.steps(IMAGES, 400), share=SHARE)
    labels = ratings_to_labels(images.ratings)
    features = damage_ratings.embedded(model, images)[labels.kept]
    zero_shot = PromptClassifier(
        encoder=model, init_texts=damage_ratings.NAMED, scale=float(model.logit_scale.detach())
    ).start()
    start = {"prompts": zero_shot.prompts_, "scale": zero_shot.scale}
    found: dict[str, float] = {}
    for count in (*FEW, SOME, MANY):
        splits = rated_splits(
            labels.y,
            strata=labels.strata,
            n_splits=lab.steps(SPLITS, 2),
            train_size=min(count / (0.9 * len(labels.y)), 1.0),
        )
        tuned, probed, chosen, untuned = [], [], [], []
        for split in splits:
            train, test = (features[split.train], labels.y[split.train]), (features[split.test], labels.y[split.test])
            tuned.append(PromptClassifier(**start, epochs=lab.steps(300)).fit(*train).report(*test).balanced)
            probed.append(probe(*train, *test))
            chosen.append(probe(*train, *test, choices=CHOICES))
            untuned.append(zero_shot.report(*test).balanced)
        found[f"tuned_{count}"] = 100 * float(np.mean(tuned))
        found[f"probe_{count}"] = 100 * float(np.mean(probed))
        found[f"probe_chosen_{count}"] = 100 * float(np.mean(chosen))
        found["zero_shot"] = 100 * float(np.mean(untuned))
    baseline, ours, found["probe_chosen"] = (
        float(np.mean([found[f"{name}_{count}"] for count in FEW])) for name in ("probe", "tuned", "probe_chosen")
    )
    gain = found[f"tuned_{SOME}"] - found["zero_shot"]
    return Trial(baseline=baseline, ours=ours, notes={**found, f"gain_over_zero_shot_{SOME}": gain})


def probe(
    X: np.ndarray, y: np.ndarray, others: np.ndarray, truth: np.ndarray, *, choices: tuple[float, ...] = (PROBE_C,)
) -> float:
    """Balanced accuracy of logistic regression on other rows, with the C that three folds of its own rows prefer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GridSearchCV

    fitted = LogisticRegression(C=choices[0], max_iter=5000, class_weight="balanced")
    if len(choices) > 1:
        fitted = GridSearchCV(fitted, {"C": choices}, scoring="balanced_accuracy", cv=3)
    return float(balanced_accuracy_score(truth, fitted.fit(X, y).predict(others)))
