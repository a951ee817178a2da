"""Q16: prompts tuned on ratings scan a data set for what a person should know of, and words say what it is."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

RATED, RATED_SHARE = 200, 0.7
SCANNED, PLANTED, LEAST = 4_000, 0.05, 0.5
TOP = 5
PROBE_C = 0.316  # of CLIP's own linear probes, arXiv 2103.00020, released code
CHOICES = (0.01, 0.1, PROBE_C, 1.0, 10.0, 100.0)
"""Values of C that cross-validation chooses from."""

CARD = Card.of(
    "q16",
    claim=Claim(
        says=f"Prompts tuned on at most {RATED} rated images rank the planted {100 * PLANTED:.0f} % of {SCANNED} "
        "images higher than the same prompts before tuning.",
        metric="average precision of the planted images",
        margin=0.2,
        baseline="zero-shot: the paper's start prompts, untuned; prompts that name the damage, and probes on the same "
        "ratings, are conditions",
        scale="tiny CLIP of 64 dimensions, 400 steps on scenes of 32 px whose captions sometimes say what state a "
        "thing is in",
        equal="encoder and images looked through; the probes of the conditions have the same rated images. "
        "Only the cross-validated one has a setting that was tried out",
        conditions=(
            Condition(
                says="The average precision is 0.8 at least.",
                than=0.8,
            ),
            Condition(
                says="Nine of ten images on the list, of a probability of 0.9 or more, are planted.",
                ours="precision_of_the_list",
                than=0.9,
            ),
            Condition(
                says=f"The three words for damage are among the {TOP} heaviest of the listed images' captions.",
                ours=f"damage_words_in_top_{TOP}",
                than=3.0,
            ),
            Condition(
                says="The average precision is at least that of a linear probe on the same rated images.",
                than="precision_probe",
            ),
            Condition(
                says="It is at least that of untuned prompts that name what the raters mind, intact and damaged.",
                than="precision_named",
            ),
            Condition(
                says="It is at least that of a probe whose C is chosen by cross-validation on the same ratings.",
                than="precision_probe_chosen",
            ),
        ),
    ),
    differences=(
        "Damage planted in synthetic scenes, rated by its share of the thing's area with noise, stands in for moral "
        "ratings, which are not shipped. It shows the mechanism, not moral judgement.",
        "The scale of the cosines is the small model's own, as 100 is that of the paper's CLIP.",
        "Words come from the captions of the set; the paper has a language model describe each flagged image.",
        "A word that the other captions lack is expected as often as their rarest one; the release expects it 100 "
        "times, which hides it.",
        "Photographs, such as of faults in textiles, are not looked through: no encoder here can read them.",
    ),
    tried={
        "The same bed with three seeds and without the conditions.": (
            "Average precision 0.91 against 0.53 of the untuned prompts (0.78, 0.51 and 0.30): not shown, as "
            "the baseline varies. One or two of the five heaviest words were words for damage."
        ),
        "Pilots on other seeds with other captions of the state.": (
            "The untuned words reached 0.87 to 0.95, or the model learnt nothing of damage."
        ),
    },
    minutes=2.0,
)


def reproduce(lab: Lab) -> Trial:
    """Teach a model, tune its prompts on rated images, and look through others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import GridSearchCV

    from tether.methods.offensiveness import ratings_to_labels
    from tether.methods.q16 import DatasetAudit
    from tether.tasks.safety import PromptClassifier
    from tether_lab.worlds import damage_ratings

    model = damage_ratings.taught(lab)
    graded = damage_ratings.draw(lab, "rated", rows=RATED, share=RATED_SHARE)
    pool = damage_ratings.draw(
        lab, "scan", rows=lab.steps(SCANNED, 200), share=PLANTED if not lab.smoke else 0.3, least=LEAST
    )
    labels = ratings_to_labels(graded.ratings)
    learnt, scanned = damage_ratings.embedded(model, graded)[labels.kept], damage_ratings.embedded(model, pool)
    own = PromptClassifier(
        encoder=model,
        labels=("sound", "damaged"),
        scale=float(model.logit_scale.detach()),
        epochs=lab.steps(300),
        backbone="a tiny CLIP of scenes",
    )
    ids = [str(row) for row in range(len(pool))]

    def precision(prompts: PromptClassifier) -> float:
        cosines = prompts.cosines(scanned)
        return float(average_precision_score(pool.planted, cosines[:, 1] - cosines[:, 0]))

    own.start()
    before, early = precision(own), DatasetAudit(own).run(scanned, ids=ids)
    own.fit(learnt, labels.y)
    probe = LogisticRegression(C=PROBE_C, max_iter=5000, class_weight="balanced").fit(learnt, labels.y)
    chosen = GridSearchCV(probe, {"C": CHOICES}, scoring="average_precision", cv=3).fit(learnt, labels.y)
    named = PromptClassifier(encoder=model, init_texts=damage_ratings.NAMED, scale=own.scale).start()
    after = precision(own)
    report = DatasetAudit(own, rating_source="the share of a thing that is damaged").run(
        scanned, ids=ids, captions=pool.texts
    )
    hits, early_hits = ([bool(pool.planted[int(one.id)]) for one in found.flagged] for found in (report, early))
    planted = {*damage_ratings.BAD, damage_ratings.BROAD_BAD}
    return Trial(
        baseline=before,
        ours=after,
        notes={
            "labels": float(len(labels.y)),
            "planted": float(pool.planted.sum()),
            "listed": float(len(hits)),
            "precision_of_the_list": share(hits),
            "recall_of_the_list": sum(hits) / float(pool.planted.sum()),
            "listed_zero_shot": float(len(early_hits)),
            "precision_of_the_list_zero_shot": share(early_hits),
            "precision_probe": float(average_precision_score(pool.planted, probe.decision_function(scanned))),
            "precision_probe_chosen": float(average_precision_score(pool.planted, chosen.decision_function(scanned))),
            "precision_named": precision(named),
            f"damage_words_in_top_{TOP}": float(sum(word in damage_ratings.BAD for word, _ in report.words[:TOP])),
            f"planted_words_in_top_{TOP}": float(sum(word in planted for word, _ in report.words[:TOP])),
        },
    )


def share(hits: list[bool]) -> float:
    """Of true ones; 0 for an empty list, which finds nothing."""
    return sum(hits) / len(hits) if hits else 0.0
