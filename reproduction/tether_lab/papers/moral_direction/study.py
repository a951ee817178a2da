"""Moral direction: words of two poles give a direction along which unseen words and phrases are ordered too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether.methods.moral_direction.moral_direction import MoralDirection
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm import CharModel
    from tether_lab.worlds.polarity import PolarityLanguage

STEPS, RANDOM_DIRECTIONS = 800, 50
SAMPLES, TOP_K = 400, 30

CARD = Card.of(
    "moral-direction",
    claim=Claim(
        says="The first principal direction of 12 + 12 clear words orders 40 unseen words and 40 phrases by their "
        "planted degree with a correlation at most 0.02 below that of the difference of the two poles' means.",
        metric="Spearman correlation with the planted degree",
        margin=0.02,
        baseline="the difference of the means of the good and the bad words",
        scale=f"causal word model of 64 dimensions, {STEPS} steps on an invented language of 99 words",
        kind="no_worse",
        equal="words, questions and embeddings; neither side has a setting that was tried out",
        conditions=(
            Condition(
                says="The correlation is 0.5 at least.",
                than=0.5,
            ),
            Condition(
                says=f"It is 0.4 above the mean absolute correlation of {RANDOM_DIRECTIONS} random directions.",
                than="spearman_random",
                least=0.4,
            ),
            Condition(
                says="It is no lower than that of the difference of the means, as a mean over seeds and without the "
                "allowance.",
                than="baseline",
            ),
            Condition(
                says="The first direction explains at least twice as much variance as the second.",
                ours="first_over_second",
                than=2.0,
            ),
            Condition(
                says="With the filter the share of bad words in generated text falls by half at least.",
                ours="bad_words_fall",
                than=0.5,
            ),
            Condition(
                says="The share of different word pairs falls by a tenth at most with the filter.",
                ours="distinct_pairs_fall",
                than=0.1,
                better="lower",
            ),
        ),
    ),
    differences=(
        "A small word model that has read an invented language with planted degrees stands in for Sentence-BERT; how "
        "well scores agree with people cannot be shown here.",
        "The sign comes from the two poles; by the released rule, clusters and an anchor word, on request.",
        "The scale is the largest coordinate among the words fitted on; the release has a constant of its model.",
        "The filter looks at the likeliest tokens only, all in one batch, and equal scores go to the likelier token.",
    ),
    tried={
        "The same bed with random directions as the baseline, three seeds.": (
            "0.97 against 0.36 of random directions; the difference of means had 0.98. The filter took 87 % of "
            "the bad words and 45 % of the different word pairs."
        ),
        "The allowance of 0.02.": (
            "It was set after these seeds had shown the direction 0.01 below the difference of means; that it "
            "is not below at all, which was asked for at first, is a condition."
        ),
    },
    minutes=1.0,
)


def reproduce(lab: Lab) -> Trial:
    """Let a model read the language, fit a direction on its clear verbs, ask about others and filter what it writes."""
    import numpy as np

    from tether.methods.moral_direction import MoralDirection
    from tether_lab.worlds import polarity

    language = polarity.draw_language(lab.seed)
    model = polarity.train(language, steps=lab.steps(STEPS), seed=lab.seed, count=lab.steps(20_000, 500))
    moral = MoralDirection(lambda texts: polarity.mean_states(model, texts), templates=polarity.QUESTIONS)
    fit(moral, language, anchor=language.bad[0])
    anchored = moral.sign_
    fit(moral, language)
    draw = np.random.default_rng(lab.seed)
    phrases = [f"{verb} {polarity.NOUNS[draw.integers(len(polarity.NOUNS))]}" for verb in language.tested]
    degrees = np.array([language.degrees[verb] for verb in language.tested])
    words, together = list(language.tested), [*language.tested, *phrases]
    twice = np.concatenate([degrees, degrees])
    rows = moral.embed(together)
    difference = moral.embed(language.good).mean(axis=0) - moral.embed(language.bad).mean(axis=0)
    random = [abs(rank(rows @ draw.standard_normal(rows.shape[1]), twice)) for _ in range(lab.steps(RANDOM_DIRECTIONS))]
    ratio = moral.explained_variance_ratio_
    ours = rank(moral.transform(together), twice)
    notes = {
        "spearman_words": rank(moral.transform(words), degrees),
        "spearman_phrases": rank(moral.transform(phrases), degrees),
        "spearman_bare_words": rank(moral.transform(words, form="bare"), degrees),
        "spearman_random": float(np.mean(random)),
        "explained_first": float(ratio[0]),
        "explained_second": float(ratio[1]),
        "first_over_second": moral.direction.clarity_,
        "both_sign_rules_agree": float(anchored == moral.sign_),
        **filtered(lab, moral, model, language),
    }
    return Trial(baseline=rank(rows @ difference, twice), ours=ours, notes=notes)


def fit(moral: MoralDirection, language: PolarityLanguage, *, anchor: str | None = None) -> None:
    """Fit on the clear verbs; that a direction does not stand out is a note here, not a warning."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no direction stands out")
        moral.fit(good=language.good, bad=language.bad, anchor=anchor)


def filtered(lab: Lab, moral: MoralDirection, model: CharModel, language: PolarityLanguage) -> dict[str, float]:
    """What the model writes with and without the filter, from the same draws."""
    from tether.methods.moral_direction import DirectionLogitsProcessor
    from tether_lab.worlds import polarity

    keeper = DirectionLogitsProcessor(moral, tokenizer=polarity.PolarityDecoder(), top_k=TOP_K)
    count = lab.steps(SAMPLES, 8)
    notes: dict[str, float] = {}
    for name, processor in (("plain", None), ("filtered", keeper)):
        texts = polarity.sample(model, count=count, generator=lab.generator("samples"), processor=processor)
        notes[f"bad_words_{name}"] = polarity.bad_share(texts, language=language)
        notes[f"distinct_pairs_{name}"] = polarity.distinct_pairs(texts)
    notes["bad_words_fall"] = fall(notes["bad_words_plain"], notes["bad_words_filtered"])
    notes["distinct_pairs_fall"] = fall(notes["distinct_pairs_plain"], notes["distinct_pairs_filtered"])
    return notes


def fall(before: float, after: float) -> float:
    """By which share a number fell; 0 where there was nothing to fall."""
    return (before - after) / before if before > 0 else 0.0


def rank(scores: np.ndarray, degrees: np.ndarray) -> float:
    """Spearman correlation; 0 where every score is the same."""
    import numpy as np
    from scipy.stats import spearmanr

    return 0.0 if np.ptp(scores) == 0 else float(spearmanr(scores, degrees).statistic)
