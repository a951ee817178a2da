"""FairPIVARA: a few coordinates left out of all embeddings, so that images lean less to one list of words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Condition, Trial, Tried

if TYPE_CHECKING:
    import numpy as np

    from tether.papers.reproduction.lab import Lab

IMAGES, REMOVED, TOP_K, RANDOM_DRAWS = 2000, 6, 6, 100

CARD = Card(
    slug="fairpivara",
    title="FairPIVARA: Reducing and Assessing Biases in CLIP-Based Multimodal Models",
    year=2024,
    arxiv="2409.19474",
    venue="BMVC 2024",
    code="hiaac-nlp/FairPIVARA",
    package="space",
    parts=(
        "tether.space.fair_dims.select_dimensions",
        "tether.space.fair_dims.FairDims",
        "tether.space.association.association_bias",
        "tether.space.association.histogram_mi",
        "tether.space.association.weat",
    ),
    needs=("embeddings of images of a concept", "embeddings of two lists of words"),
    gives="Coordinates to leave out of image and text embeddings, chosen by how much less the images then lean to one "
    "of two lists of words, and two measures of that; check the choice on other images. "
    "The best of a hundred random choices was not shown to be worse.",
    claim=Claim(
        says="At most a tenth of the coordinates, chosen by the rule on one half of the images, carry most of a "
        "planted association in the other half.",
        metric="share of the association bias of held-out images that is gone",
        better="higher",
        margin=0.4,
        baseline=f"as many random coordinates, mean of {RANDOM_DRAWS} draws, the paper's own control",
        scale=f"embeddings of a tiny CLIP of 64 dimensions, {REMOVED} left out; about {IMAGES} images of one "
        "background, two lists of six moods",
        equal="number of coordinates left out, images measured on",
        conditions=(
            Condition(
                says="At least 60 % of the bias of held-out images is gone.",
                ours="ours",
                than=0.6,
                better="higher",
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
                better="higher",
                least=-0.02,
            ),
            Condition(
                says=f"As much is gone as with the one of the {RANDOM_DRAWS} random draws that did best on the half on "
                "which the rule chose.",
                ours="ours",
                than="gone_random_chosen",
                better="higher",
            ),
        ),
    ),
    differences=(
        "Backgrounds and moods of synthetic captions stand in for people and pleasant words.",
        "A list of coordinates is left out as a whole and cut where the bias is least; the released code scores each "
        "coordinate alone and returns the whole list.",
        "Where the limit of information admits no coordinate, as with few images, the quarter of least information "
        "is admitted.",
    ),
    tried=(
        Tried(
            bed="The same bed with three seeds and without the conditions.",
            outcome="63 % of the bias was gone against 3 % (lower bound of the difference 0.005); on seeds of another "
            "run the two were not told apart. The whole list, as the released code returns it, had -114 %, -130 % and "
            "54 % gone: in two seeds it more than doubled the bias, with the other sign.",
        ),
    ),
    minutes=2.0,
    guide="bias.md",
    authors=(
        "Moreira",
        "Ferreira",
        "Silva",
        "dos Santos",
        "Pereira",
        "Gondim",
        "Bonil",
        "Maia",
        "da Silva",
        "Hashiguti",
        "dos Santos",
        "Pedrini",
        "Avila",
    ),
)


def reproduce(lab: Lab) -> Trial:
    """Choose coordinates on half of the images of the ground that leans, and measure on the other half."""
    import warnings

    import numpy as np
    import torch
    import torch.nn.functional as F

    from tether.data.sets.scenes.captions import with_article
    from tether.papers.testbeds import biased_scenes
    from tether.space import DimensionMask, association_bias, select_dimensions, weat

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

        def gone(mask: DimensionMask, rows: np.ndarray = held_out, bias: float = before) -> float:
            cut, cut_soft, cut_loud = (mask.zero(some) for some in (rows, soft, loud))
            left = association_bias(cut, positive=cut_soft, negative=cut_loud, top_k=TOP_K)
            return 1 - abs(left) / max(abs(bias), 1e-9)

        draw = np.random.default_rng(lab.seed)
        size = max(1, len(found.dims))
        drawn = [draw.choice(biased_scenes.DIM, size, replace=False) for _ in range(lab.steps(RANDOM_DRAWS))]
        masks = [DimensionMask(tuple(map(int, dims)), biased_scenes.DIM) for dims in drawn]
        random = [gone(mask) for mask in masks]
        where_chosen = [gone(mask, chosen_on, found.bias) for mask in masks]
        reduced, all_listed = gone(found.mask), gone(official.mask)

    weights = biased_scenes.sentences(model, [with_article(shape) for shape in biased_scenes.SHAPES])
    kept = torch.ones(biased_scenes.DIM)
    kept[list(found.dims)] = 0
    notes = {
        "bias": before / len(held_out),
        "coordinates": float(len(found.dims)),
        "candidates": float(len(found.candidates)),
        "least_information": float(found.mi.min()),
        "gone_where_chosen": 1 - abs(found.remaining) / max(abs(found.bias), 1e-9),
        "gone_released_list": all_listed,
        "gone_random_best": float(np.max(random)),
        "gone_random_chosen": random[int(np.argmax(where_chosen))],
        "weat_effect": weat(ours, y=other, a=soft, b=loud, test="none").effect,
        "shape_accuracy": biased_scenes.accuracy(image, weights=weights, labels=images.shape),
        "shape_accuracy_masked": biased_scenes.accuracy(
            F.normalize(image * kept), weights=F.normalize(weights * kept), labels=images.shape
        ),
    }
    return Trial(float(np.mean(random)), reduced, notes)
