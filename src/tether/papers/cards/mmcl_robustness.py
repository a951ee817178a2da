"""MMCL robustness: contrastive learning of pairs is deceived less by a cue than a classifier is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from tether.evaluate.robustness import SpuriousPairs, SpuriousWorld
    from tether.papers.reproduction.lab import Lab

AGREEMENTS = (0.9, 0.95, 0.99)
"""Probabilities that the cue agrees with the class in training."""
CLAIMED = 0.95
SIGMA_CORE, SIGMA_CUE = 1.0, 0.05
DIM_IMAGE, DIM_TEXT, PAIRS, TESTED = 200, 50, 1000, 20_000
RANK = 4  # of the towers that are trained by descent

CARD = Card(
    slug="mmcl-robustness",
    title="Understanding the Robustness of Multi-modal Contrastive Learning to Distribution Shift",
    year=2023,
    arxiv="2310.04971",
    venue="ICLR 2024",
    authors=("Xue", "Joshi", "Nguyen", "Mirzasoleiman"),
    package="evaluate",
    parts=(
        "tether.evaluate.robustness.spurious.theory_accuracy",
        "tether.evaluate.robustness.spurious.SpuriousWorld",
        "tether.space.linear_mmcl.LinearMMCL",
        "tether.losses.linear_mmcl.linear_mmcl_loss",
    ),
    needs=("pairs as vectors, for the solved towers", "nothing, for the theory"),
    gives="How much a cue that usually agrees with the class will deceive a contrastive model, and how much richer "
    "captions help: exactly, and on vectors of your own.",
    claim=Claim(
        says="Where a cue agreed with the class in 95 % of the training pairs and then tells nothing, contrastive "
        "learning of pairs keeps more accuracy than a classifier.",
        metric="accuracy out of distribution, where the cue agrees with the class half of the time",
        better="higher",
        margin=0.08,
        baseline="logistic regression on the same images, nearly without regularisation (C = 1e6)",
        scale=f"data model 1: images of {DIM_IMAGE} and captions of {DIM_TEXT} dimensions, {PAIRS} pairs, "
        f"core deviation {SIGMA_CORE:g}, cue deviation {SIGMA_CUE:g}; {TESTED} tested",
    ),
    differences=(
        "The linear model of the paper is solved by a singular value decomposition and, as a check, trained.",
        "The accuracy after endlessly many pairs is a closed form; the paper gives bounds.",
        "Poorer captions replace the core feature by the class word; the paper's masks are read so.",
        "The second data model, the digits and CLIP on COCO are left out.",
    ),
    minutes=0.5,
    guide="evaluation.md",
)


def reproduce(lab: Lab) -> Trial:
    """Rich captions, class captions and a classifier at three strengths of the cue, and the theory beside them."""
    import numpy as np

    from tether.evaluate.robustness import SpuriousWorld, theory_accuracy
    from tether.space import LinearMMCL

    pairs, tested = lab.steps(PAIRS, 200), lab.steps(TESTED, 1000)
    notes: dict[str, float] = {}
    for place, p in enumerate(AGREEMENTS):
        drawn: dict[str, SpuriousPairs] = {}
        for caption in ("rich", "class"):
            world = SpuriousWorld(
                dim_image=DIM_IMAGE,
                dim_text=DIM_TEXT,
                sigma_core=SIGMA_CORE,
                sigma_cue=SIGMA_CUE,
                caption=caption,
                seed=lab.seed,
            )
            rng = np.random.default_rng([lab.seed, place])
            train, same, shifted = (
                world.draw(count, p=agreement, rng=rng) for count, agreement in ((pairs, p), (tested, p), (tested, 0.5))
            )
            solved = LinearMMCL().fit(train.image, train.text)
            for name, test in (("id", same), ("ood", shifted)):
                predicted = solved.predict_zero_shot(test.image, class_text=world.class_text)
                notes[f"{caption}_{name}_{p:g}"] = share(predicted, test)
            if caption == "rich":
                drawn = {"train": train, "id": same, "ood": shifted}
                if p == CLAIMED:
                    notes |= trained(lab, world, train=train, test=shifted)
        classifier = logistic(drawn["train"])
        for name in ("id", "ood"):
            notes[f"logistic_{name}_{p:g}"] = share(classifier(drawn[name].image), drawn[name])
        theory = theory_accuracy(p, sigma_core=SIGMA_CORE, sigma_cue=SIGMA_CUE)
        notes[f"theory_ood_{p:g}"] = theory.ood
        notes[f"theory_id_{p:g}"] = theory.id
    ours, baseline = notes[f"rich_ood_{CLAIMED:g}"], notes[f"logistic_ood_{CLAIMED:g}"]
    notes["rich_over_class"] = ours - notes[f"class_ood_{CLAIMED:g}"]
    notes["distance_from_theory"] = abs(ours - notes[f"theory_ood_{CLAIMED:g}"])
    notes["logistic_over_rich_id"] = notes[f"logistic_id_{CLAIMED:g}"] - notes[f"rich_id_{CLAIMED:g}"]
    return Trial(baseline, ours, notes)


def share(predicted: np.ndarray, pairs: SpuriousPairs) -> float:
    """Share of the images told rightly."""
    return float((predicted == pairs.label).mean())


def logistic(pairs: SpuriousPairs) -> Callable[[np.ndarray], np.ndarray]:
    """A classifier of images that sees labels instead of captions."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1e6, max_iter=5000).fit(pairs.image, pairs.label).predict


def trained(lab: Lab, world: SpuriousWorld, *, train: SpuriousPairs, test: SpuriousPairs) -> dict[str, float]:
    """Towers of rank 4 that descend on the loss instead of being solved: how close they come, and what they score."""
    import torch

    from tether.losses import linear_mmcl_loss
    from tether.space import LinearMMCL

    image, text = torch.from_numpy(train.image), torch.from_numpy(train.text)
    generator = lab.generator("towers")
    weights = [
        (torch.randn(RANK, rows.shape[1], generator=generator, dtype=rows.dtype) / rows.shape[1]).requires_grad_()
        for rows in (image, text)
    ]
    optimizer = torch.optim.LBFGS(weights, max_iter=lab.steps(200, 5), line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = linear_mmcl_loss(image, text=text, image_weights=weights[0], text_weights=weights[1])
        loss.backward()
        return loss

    optimizer.step(closure)
    left, right = (weight.detach().numpy() for weight in weights)
    least = LinearMMCL(rank=RANK).fit(train.image, train.text).loss_
    scores = (test.image - train.image.mean(0)) @ left.T @ right @ (world.class_text - train.text.mean(0)).T
    return {
        "trained_ood": share(scores.argmax(axis=1), test),
        "trained_loss": float(closure().detach()),
        "least_loss": least,
    }
