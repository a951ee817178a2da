"""MetaCLIP 2: a list of entries and a threshold for each language, so that all are balanced to the same degree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from tether.methods.metaclip2.multilingual import WorldMatches
    from tether_lab.lab.lab import Lab

CARD = Card.of(
    "metaclip2",
    claim=Claim(
        says="Thresholds of equal tail share leave the worst-served language more varied than one threshold for all "
        "languages does, at the same number of kept captions in total.",
        metric="least effective number of entries over languages (of those available), one threshold = 100",
        margin=10.0,
        baseline="one threshold for all languages, chosen so that the same number of captions is kept in total",
        scale="names of 1,704 emoji in 14 languages, repeated by Zipf laws with exponents of 0.8 to 1.2: 100,000 "
        "captions in 8 languages, 20,000 in 6",
        equal="captions kept in expectation, in total and not in each language; lists of entries, random number of "
        "every caption",
        conditions=(
            Condition(
                says="It is also more varied, by 1 or more in units of the metric, than with thresholds in proportion "
                "to each language's matches, at the same number of kept captions in total.",
                than="in_proportion",
                least=1.0,
            ),
            Condition(
                says="The language that keeps the fewest of its entries keeps no fewer than with one threshold.",
                ours="least_coverage_own",
                than="least_coverage_one",
            ),
            Condition(
                says="The tail share of every other language is that of English to within one match of the entry at "
                "its threshold: an exact check of the rule, true by construction.",
                ours="share_off_in_count_steps",
                than=1.0,
                better="lower",
                least=-1e-6,
            ),
        ),
    ),
    minutes=1.5,
    differences=(
        "The paper curates 29 billion captions in 329 languages; here 920,000 in 14, which the pool names.",
        "What is compared is the variety of what is kept. That models trained on it are better, and that more "
        "languages help English, is not checked.",
        "The released code draws one of an image's texts and then whether it stays; the step draws every pair for "
        "itself by a hash of its key, with the same probability. choose_text is the released rule.",
        "A threshold is at least 1. Where the nearest tail share is that of entries without a match the released code "
        "takes 0 and divides 0 by 0.",
        "Word segmenters for languages without blanks are not shipped: LanguageNgrams takes any as an argument.",
        "The released curate.py cannot run as published; only its small functions are followed.",
    ),
    tried={
        "The same with 5,000 captions in each of the 6 small languages, five seeds.": (
            "129.8 against 100 of one threshold. Under both other rules the small languages had the least "
            "threshold, 1, so that thresholds in proportion came to exactly the same and could not be told apart. "
            "With 20,000, set before it was run, a look at seed 7 showed thresholds of 3 there."
        ),
    },
)

CAPTIONS = 100_000
FEWER = 5  # times fewer captions in the small languages
SMALL_LANGUAGES = 6
EXPONENTS = (0.8, 1.2)
TAIL_SHARE = 0.06  # of English, which its t of 20,000 gives at 400 M pairs (paper)
REFERENCE = "en"


def reproduce(lab: Lab) -> Trial:
    """One seed: what each language keeps under its own threshold and under one for all."""
    import numpy as np

    from tether.core.hash_rng import hash_uniform
    from tether.data.curate.metaclip.balance import threshold_for_share
    from tether.methods.metaclip2.balance import WorldBalancer
    from tether.methods.metaclip2.multilingual import WorldMatcher

    lists = _lists()
    texts, languages = _captions(lists, count=lab.steps(CAPTIONS, 10_000), rng=np.random.default_rng([lab.seed, 0]))
    matches = WorldMatcher(lists).match_many(texts, languages=languages)
    counts = matches.counts()
    balancer = WorldBalancer(t=threshold_for_share(counts[REFERENCE], share=TAIL_SHARE), reference=REFERENCE)
    own = balancer.fit(counts).pair_prob(matches)
    one = _thresholds(matches, weights=dict.fromkeys(counts, 1.0), kept=float(own.sum()))
    proportion = {code: float(each.sum()) for code, each in counts.items()}
    proportional = _thresholds(matches, weights=proportion, kept=float(own.sum()))
    drawn = hash_uniform(map(str, range(len(texts))), seed=lab.seed, salt="metaclip2")
    notes = {
        "t_english": float(balancer.t),
        "t_least": float(min(balancer.thresholds_.values())),
        "t_least_proportional": min(proportional.values()),
        "t_one": one[REFERENCE],
        "tail_share": balancer.share_,
        "share_off_in_count_steps": max(
            _steps_off(counts[code], t=balancer.thresholds_[code], share=balancer.share_)
            for code in counts
            if code != REFERENCE
        ),
    }
    for name, chance in (
        ("own", own),
        ("one", _chance(matches, thresholds=one)),
        ("proportional", _chance(matches, thresholds=proportional)),
    ):
        kept = drawn < chance
        found = _variety(matches, kept)
        notes |= {
            f"least_percent_{name}": min(effective for effective, _ in found.values()),
            f"mean_percent_{name}": float(np.mean([effective for effective, _ in found.values()])),
            f"least_coverage_{name}": min(covered for _, covered in found.values()),
            f"english_percent_{name}": found[REFERENCE][0],
            f"kept_{name}": float(kept.sum()),
        } | {f"kept_{name}_{code}": float(kept[matches.of(code)[0]].sum()) for code in matches.codes}
    in_units = 100.0 / notes["least_percent_one"]
    notes["in_proportion"] = in_units * notes["least_percent_proportional"]
    return Trial(baseline=100.0, ours=in_units * notes["least_percent_own"], notes=notes)


def _lists() -> dict[str, list[str]]:
    """The distinct names of plain emoji (no tone, no gender) in each language."""
    from tether.data.sets.emoji_table import LANGUAGES, table

    rows = [row for row in table() if row.is_base]
    return {code: list(dict.fromkeys(row.names[code] for row in rows if code in row.names)) for code in LANGUAGES}


def _captions(lists: dict[str, list[str]], *, count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Names drawn by a Zipf law of its own for each language; some languages have far fewer."""
    import numpy as np

    small = set(rng.choice([code for code in lists if code != REFERENCE], SMALL_LANGUAGES, replace=False).tolist())
    texts, languages = [], []
    for code, names in lists.items():
        share = 1.0 / np.arange(1, len(names) + 1) ** rng.uniform(*EXPONENTS)
        size = max(count // FEWER, 20) if code in small else count
        drawn = rng.permutation(len(names))[rng.choice(len(names), size, p=share / share.sum())]
        texts += [names[index] for index in drawn]
        languages += [code] * size
    return texts, languages


def _chance(matches: WorldMatches, *, thresholds: Mapping[str, float]) -> np.ndarray:
    """Probability to keep each caption with these thresholds of the languages."""
    import numpy as np

    from tether.data.curate.metaclip.balance import Balancer

    counts = matches.counts()
    kept = np.zeros(len(matches.code))
    for code in matches.codes:
        places, indptr, ids = matches.of(code)
        kept[places] = Balancer(t=thresholds[code]).fit(counts[code]).pair_prob(indptr, ids)
    return kept


def _thresholds(matches: WorldMatches, *, weights: Mapping[str, float], kept: float) -> dict[str, float]:
    """Thresholds in proportion to the weights, at least 1, that keep so many captions in expectation."""
    counts = matches.counts()

    def scaled(factor: float) -> dict[str, float]:
        return {code: max(factor * weight, 1.0) for code, weight in weights.items()}

    low, high = 0.0, max(float(counts[code].max()) / weight for code, weight in weights.items())
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _chance(matches, thresholds=scaled(middle)).sum() < kept else (low, middle)
    return scaled((low + high) / 2)


def _variety(matches: WorldMatches, kept: np.ndarray) -> dict[str, tuple[float, float]]:
    """For each language the effective number and the number of entries among what is kept, in % of those available.

    The effective number is the exponential of the entropy of the kept matches over entries.
    """
    import numpy as np

    found = {}
    for code, size in zip(matches.codes, matches.sizes, strict=True):
        places, indptr, ids = matches.of(code)
        available = len(np.unique(ids))
        stays = np.repeat(kept[places], np.diff(indptr))
        counts = np.bincount(ids[stays], minlength=size)
        share = counts[counts > 0] / max(counts.sum(), 1)
        effective = float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0
        found[code] = (100 * effective / available, 100 * len(share) / available)
    return found


def _steps_off(counts: np.ndarray, *, t: float, share: float) -> float:
    """How far the share of matches up to the threshold is off, in steps of the entry at the threshold."""
    import numpy as np

    ordered = np.sort(counts)
    reached = np.cumsum(ordered) / ordered.sum()
    nearest = np.abs(reached - share)[ordered == t].min(initial=np.inf)
    return float(nearest * ordered.sum() / t)
