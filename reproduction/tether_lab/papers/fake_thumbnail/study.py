"""Fake thumbnails: outlets whose images do not fit, and a detector of such images trained without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether.methods.fake_thumbnail.mismatch import Strategy
    from tether.methods.fake_thumbnail.pair_network import Bilinear
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.headlines import Articles

    Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]

LEARNT, CHOSEN_BY, TESTED = 3_000, 600, 1_500
OUTLETS, ARTICLES, SWAPPED = 40, 50, 0.3
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the penalty that logistic regression chooses from."""

CARD = Card.of(
    "fake-thumbnail",
    claim=Claim(
        says="A classifier on both embeddings, trained on swapped pairs, tells images in which one colour is "
        "another from the title's own better than the cosine does.",
        metric="AUROC on hard swaps",
        margin=0.03,
        baseline="the cosine of image and title, which needs no training and no threshold",
        scale="tiny CLIP, 300 steps on 32 px scenes of two things whose captions seldom name a colour; "
        f"trained on {LEARNT:,} titles, half of their swaps random and half hard, tested on {TESTED:,} others",
        equal="encoder, embeddings and tested pairs; the cosine has no training, so a condition asks for logistic "
        "regression on the same pairs, its penalty chosen on the same validation pairs",
        conditions=(
            Condition(
                says="On random swaps it falls at most 0.01 below the cosine.",
                ours="random_auroc",
                than="random_cosine_auroc",
                least=-0.01,
            ),
            Condition(
                says="On hard swaps it is no worse than logistic regression on the products of both embeddings' "
                "coordinates, trained on the same pairs.",
                than="hard_logistic_auroc",
            ),
            Condition(
                says="Where the captions that the encoder learnt from name every colour, it falls at most 0.01 below "
                "the cosine on hard swaps.",
                ours="hard_auroc_named",
                than="hard_cosine_auroc_named",
                least=-0.01,
            ),
            Condition(
                says=f"Of {OUTLETS} outlets those that swap {100 * SWAPPED:.0f} % of their images are told by mean "
                "incongruity with an AUROC of 0.9.",
                ours="outlet_auroc",
                than=0.9,
            ),
            Condition(
                says="The encoder's cosine tells random swaps with an AUROC of 0.65, without which outlets say "
                "nothing.",
                ours="random_cosine_auroc",
                than=0.65,
            ),
        ),
    ),
    differences=(
        "Synthetic scenes with colour and shape in their titles stand in for news; the released test set holds links "
        "to images that are not ours to keep.",
        "A hard swap shows the same shapes, one of them in another colour; the paper's scheme is not published.",
        "The form is full, as released, and as wide as the embeddings, which have 64 coordinates instead of 512; the "
        "default of PairClassifier has rank 32 and is measured beside it.",
        "The best epoch's weights, by validation accuracy, are kept; the release saves the last ones by an oversight.",
        "Outlets are simulated: half of them swap 30 % of their images at random.",
    ),
    tried={
        "An encoder whose training captions name every colour; pilots on other seeds, tried first.": (
            "The cosine alone reached an AUROC of 0.99 on hard swaps, which leaves nothing to gain. The bed of "
            "the claim was chosen after it; this one is measured beside it and a condition of the claim."
        ),
        "The form of rank 32 instead of the released full one, seeds 0 to 2.": (
            "AUROC on hard swaps 0.62 by the cosine and 0.71 by the classifier; on random swaps 0.906 and "
            "0.912; 40 outlets 1.00."
        ),
    },
    minutes=3.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: detectors on the embeddings of an encoder that knows few colours, and of one that knows them all."""
    from tether_lab.worlds import headlines

    parts = {
        name: headlines.draw(lab, name, rows=lab.steps(rows, 120))
        for name, rows in (("learn", LEARNT), ("choose", CHOSEN_BY), ("test", TESTED))
    }
    few, all_of_them = headlines.taught(lab), headlines.taught(lab, coloured=1.0)
    rows = {name: headlines.embedded(few, articles) for name, articles in parts.items()}
    pairs = paired(lab, parts, rows)
    full, low_rank = (detected(lab, pairs, bilinear=bilinear) for bilinear in ("full", "low_rank"))
    named_rows = {name: headlines.embedded(all_of_them, articles) for name, articles in parts.items()}
    named = detected(lab, paired(lab, parts, named_rows), bilinear="full")
    return Trial(
        baseline=full["hard_cosine_auroc"],
        ours=full["hard_auroc"],
        notes={
            **full,
            **{f"{name}_low_rank": low_rank[name] for name in ("hard_auroc", "random_auroc")},
            **{f"{name}_named": value for name, value in named.items()},
            **linear(pairs),
            "random_gain": full["random_auroc"] - full["random_cosine_auroc"],
            **outlets(lab, *rows["test"]),
        },
    )


def paired(lab: Lab, parts: dict[str, Articles], rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Pairs]:
    """Pairs to learn from and to choose by, half of their swaps hard; hard and random ones to test on."""
    wanted: tuple[tuple[str, str, tuple[Strategy, ...]], ...] = (
        ("learn", "learn", ("random", "same_group")),
        ("choose", "choose", ("random", "same_group")),
        ("hard", "test", ("same_group",)),
        ("random", "test", ("random",)),
    )
    return {name: swaps(parts[part], *rows[part], strategies=strategies, lab=lab) for name, part, strategies in wanted}


def detected(lab: Lab, pairs: dict[str, Pairs], *, bilinear: Bilinear) -> dict[str, float]:
    """Train the classifier; AUROC and accuracy on hard and on random swaps, and the cosine's AUROC."""
    from tether.methods.fake_thumbnail import PairClassifier

    text, image, y = pairs["learn"]
    dim = text.shape[1]
    classifier = PairClassifier(dim, hidden=dim, bilinear=bilinear, seed=lab.seed, epochs=lab.steps(10, 1))
    classifier.fit(text, image=image, y=y, validation=pairs["choose"])
    found = {"best_epoch": float(classifier.history.best_epoch if classifier.history else 0)}
    for name in ("hard", "random"):
        text, image, y = pairs[name]
        report = classifier.report(text, image=image, y=y)
        found |= {
            f"{name}_cosine_auroc": report.cosine_auroc,
            f"{name}_auroc": report.auroc,
            f"{name}_accuracy": report.accuracy,
        }
    return found


def linear(pairs: dict[str, Pairs]) -> dict[str, float]:
    """AUROC of logistic regression on the products of coordinates, with the penalty that validation pairs choose."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler, normalize

    products = {name: normalize(text) * normalize(image) for name, (text, image, _) in pairs.items()}
    tried = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(
            products["learn"], pairs["learn"][2]
        )
        for strength in STRENGTHS
    ]
    best = max(tried, key=lambda one: one.score(products["choose"], pairs["choose"][2]))
    return {
        f"{name}_logistic_auroc": float(roc_auc_score(pairs[name][2], best.decision_function(products[name])))
        for name in ("hard", "random")
    }


def swaps(
    articles: Articles, images: np.ndarray, texts: np.ndarray, *, strategies: tuple[Strategy, ...], lab: Lab
) -> Pairs:
    """Titles, images and labels: each pair as it is and swapped by each of the strategies, in random order."""
    import numpy as np

    from tether.methods.fake_thumbnail import make_mismatched_pairs
    from tether.methods.fake_thumbnail.mismatch import DUPLICATE

    duplicate = 1.0 if lab.smoke else DUPLICATE  # the images of a model that has learnt nothing are all alike
    made = [
        make_mismatched_pairs(
            images,
            texts=texts,
            groups=articles.alike,
            events=articles.shown,
            strategy=strategy,
            duplicate=duplicate,
            seed=lab.seed,
        )
        for strategy in strategies
    ]
    title, shown, label = (np.concatenate([getattr(one, name) for one in made]) for name in ("text", "image", "label"))
    order = np.random.default_rng(lab.seed).permutation(len(label))
    return texts[title[order]], images[shown[order]], label[order]


def outlets(lab: Lab, images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    """Outlets that swap some of their images against outlets that do not, by their mean incongruity."""
    import numpy as np

    from tether.methods.fake_thumbnail import group_profile, pair_incongruity
    from tether_lab.worlds import headlines

    rng = np.random.default_rng(lab.seed)
    count, articles = lab.steps(OUTLETS, 6), lab.steps(ARTICLES, 10)
    shown, names = [], [f"outlet {number}" for number in range(count)]
    for number in range(count):
        chosen = rng.permutation(len(images))[:articles]
        place = headlines.swapped(articles, share=SWAPPED if number < count // 2 else 0.0, rng=rng)
        shown.append((chosen[place], chosen))
    rows, titles = (np.concatenate(side) for side in zip(*shown, strict=True))
    scores = pair_incongruity(images[rows], texts=texts[titles])
    by_outlet = group_profile(scores, groups=[name for name in names for _ in range(articles)])
    kinds = ["swaps" if number < count // 2 else "sound" for number in range(count)]
    (test,) = group_profile(by_outlet.means, groups=kinds).tests
    return {
        "outlet_auroc": test.auroc,
        "outlet_difference": test.difference,
        "outlet_cohens_d": test.cohens_d,
        "outlet_log10_p": float(np.log10(test.p)),
    }
