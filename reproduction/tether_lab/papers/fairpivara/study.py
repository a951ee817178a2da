"""FairPIVARA: a few coordinates left out of all embeddings, so that images lean less to one list of words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from tether_lab.lab.lab import Lab

IMAGES, REMOVED, TOP_K, RANDOM_DRAWS = 2000, 6, 6, 100
LEANS = 0.1
"""Least bias of an image, without which there is nothing to take away."""

CARD = Card.of(
    "fairpivara",
    claim=Claim(
        says="At most a tenth of the coordinates, chosen by the rule on one half of the images, carry most of a "
        "planted association in the other half.",
        metric="share of the association bias of held-out images that is gone",
        margin=0.4,
        baseline=f"as many random coordinates, mean of {RANDOM_DRAWS} draws, the paper's own control",
        scale=f"embeddings of a tiny CLIP of 64 dimensions, {REMOVED} left out; about {IMAGES} images of one "
        "background, two lists of six moods",
        equal="most coordinates left out, words, images chosen and measured on; a projection takes out one direction",
        conditions=(
            Condition(
                says="At least 60 % of the bias of held-out images is gone.",
                than=0.6,
            ),
            Condition(
                says="Random coordinates take away 20 % at most.",
                ours="baseline",
                than=0.2,
                better="lower",
            ),
            Condition(
                says="Zero-shot accuracy of the shape falls by 2 points at most.",
                ours="shape_accuracy_masked",
                than="shape_accuracy",
                least=-0.02,
            ),
            Condition(
                says=f"There is something to take away: held-out images lean the planted way by {LEANS:g} at least, in "
                f"summed cosines of their {TOP_K} most similar words.",
                ours="bias",
                than=-LEANS,
                better="lower",
            ),
            Condition(
                says=f"As much is gone as with the one of {RANDOM_DRAWS} random lists, each cut after 1 to {REMOVED} "
                "coordinates, that did best on the half on which the rule chose.",
                than="gone_random_chosen",
            ),
            Condition(
                says="As much is gone as when the difference of the two lists' mean words is projected out.",
                than="gone_without_words_difference",
            ),
            Condition(
                says="As much is gone as when the difference of the mean images of both backgrounds is projected out.",
                than="gone_without_images_difference",
            ),
        ),
    ),
    differences=(
        "Backgrounds and moods of synthetic captions stand in for people and pleasant words.",
        "A list of coordinates is left out as a whole and cut where the bias is least; the released code scores each "
        "coordinate alone and returns the whole list.",
        "A projection takes one direction out of images and words alike and searches nothing; it is fitted on the "
        "words or on the half on which the rule chooses. It changes all coordinates, where the rule leaves some out.",
        "Where the limit of information admits no coordinate, as with few images, the quarter of least information "
        "is admitted.",
    ),
    tried={
        "The same bed with three seeds and without the conditions; the bias was -0.08, -0.05 and -0.46.": (
            "63 % of the bias was gone against 3 % (lower bound of the difference 0.005); on seeds of another "
            "run the two were not told apart. The whole list, as the released code returns it, had -114 %, -130 % and "
            "54 % gone: in two seeds it more than doubled the bias, with the other sign."
        ),
    },
    minutes=2.0,
)


def reproduce(lab: Lab) -> Trial:
    """Choose coordinates on half of the images of the ground that leans, and measure on the other half."""
    import warnings

    import numpy as np
    import torch
    import torch.nn.functional as F

    from tether.data.sets.scenes.captions import with_article
    from tether.methods.fairpivara import association_bias, select_dimensions, weat
    from tether_lab.worlds import biased_scenes

    model = biased_scenes.taught(lab)
    images = biased_scenes.draw(lab, "leaning", rows=lab.steps(2 * IMAGES, 64))
    image = F.normalize(biased_scenes.images(model, images), dim=1)
    ours, other = (image[images.ground == ground].numpy().astype(np.float64) for ground in (0, 1))
    soft, loud = (
        biased_scenes.sentences(model, [with_article(f"{mood} picture") for mood in moods]).numpy().astype(np.float64)
        for moods in (biased_scenes.SOFT, biased_scenes.LOUD)
    )
    half = len(ours) // 2
    chosen_on, held_out = ours[:half], ours[half:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the information of few images, and shorter rows
        found = select_dimensions(chosen_on, positive=soft, negative=loud, n=REMOVED, top_k=TOP_K)
        official = select_dimensions(
            chosen_on, positive=soft, negative=loud, n=REMOVED, top_k=TOP_K, theta=np.inf, mode="official"
        )
        before = association_bias(held_out, positive=soft, negative=loud, top_k=TOP_K)

        def gone(cutting: Callable[[np.ndarray], np.ndarray], *, rows: np.ndarray, bias: float) -> float:
            cut, cut_soft, cut_loud = (cutting(some) for some in (rows, soft, loud))
            left = association_bias(cut, positive=cut_soft, negative=cut_loud, top_k=TOP_K)
            return 1 - abs(left) / max(abs(bias), 1e-9)

        draw = np.random.default_rng(lab.seed)
        lists = [draw.choice(biased_scenes.DIM, REMOVED, replace=False) for _ in range(lab.steps(RANDOM_DRAWS))]
        size = max(1, len(found.dims))
        random = [gone(leaving_out(dims[:size]), rows=held_out, bias=before) for dims in lists]
        shorter = [leaving_out(dims[:length]) for dims in lists for length in range(1, REMOVED + 1)]
        best = max(shorter, key=lambda cutting: gone(cutting, rows=chosen_on, bias=found.bias))
        differences = {
            "words": soft.mean(axis=0) - loud.mean(axis=0),
            "images": chosen_on.mean(axis=0) - other[: len(other) // 2].mean(axis=0),
        }
        tried = {
            "ours": found.mask.zero,
            "released_list": official.mask.zero,
            "random_chosen": best,
            **{f"without_{name}_difference": projecting_out(along) for name, along in differences.items()},
        }
        left = {name: gone(cutting, rows=held_out, bias=before) for name, cutting in tried.items()}

    weights = biased_scenes.sentences(model, [with_article(shape) for shape in biased_scenes.SHAPES])
    kept = torch.ones(biased_scenes.DIM)
    kept[list(found.dims)] = 0
    notes = {
        "bias": before / len(held_out),
        "coordinates": float(len(found.dims)),
        "candidates": float(len(found.candidates)),
        "least_information": float(found.mi.min()),
        "gone_where_chosen": 1 - abs(found.remaining) / max(abs(found.bias), 1e-9),
        "gone_random_best": float(np.max(random)),
        **{f"gone_{name}": share for name, share in left.items() if name != "ours"},
        "weat_effect": weat(ours, y=other, a=soft, b=loud, test="none").effect,
        "shape_accuracy": biased_scenes.accuracy(image, weights=weights, labels=images.shape),
        "shape_accuracy_masked": biased_scenes.accuracy(
            F.normalize(image * kept), weights=F.normalize(weights * kept), labels=images.shape
        ),
    }
    return Trial(float(np.mean(random)), left["ours"], notes)


def leaving_out(dims: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rows with these coordinates set to zero."""
    from tether.methods.fairpivara import DimensionMask
    from tether_lab.worlds import biased_scenes

    return DimensionMask(tuple(map(int, dims)), biased_scenes.DIM).zero


def projecting_out(along: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Rows without what lies along one direction."""
    import numpy as np

    unit = along / max(float(np.linalg.norm(along)), 1e-12)
    return lambda rows: rows - np.outer(rows @ unit, unit)
