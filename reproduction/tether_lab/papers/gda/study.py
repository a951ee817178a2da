"""GDA: classes as Gaussians of one covariance beside the class texts, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from tether.evaluate.few_shot import FewShotTable, Method
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.few_shot_heads import EmbeddedSets

SHOTS, DRAWS, VIEWS = (1, 4, 8, 16), 3, 10


def _above(says: str, ours: str, than: str, least: float = 0.0) -> Condition:
    return Condition(says=says, ours=ours, than=than, least=least)


CARD = Card.of(
    "gda",
    claim=Claim(
        says="From 16 images a class, Gaussians of one covariance beside the class texts tell classes that a small "
        "CLIP never saw better than class means beside the texts do.",
        metric="accuracy at 16 shots, percentage points",
        margin=1.5,
        baseline="the same ensemble with the identity as covariance: class means beside the texts, weighed on the same "
        "validation rows, with alpha of up to 10,000 where the method has up to 100, since means are small numbers",
        scale="20 classes of things, a colour and a shape each, which a tiny CLIP of 800 steps never saw together, at "
        f"32 px; 50 images a class to ask about, {DRAWS} draws a seed; beside them digits as 64 grey values",
        equal="embeddings of images as they are, draws, and up to four validation images a class, on which every head "
        "chooses its settings: seven values of alpha here and eleven for the peers beside texts, seven strengths of "
        "logistic regression, 4,000 pairs of numbers of Tip-Adapter",
        conditions=(
            _above("At 16 shots it is 8 points above texts alone.", "ours", "zero_shot", 8.0),
            _above("At 8 shots it is 1.5 points above class means.", "gda_8", "identity_8", 1.5),
            _above("At 4 shots it is above class means.", "gda_4", "identity_4"),
            _above("At 8 shots it is above texts alone.", "gda_8", "zero_shot"),
            _above("At 4 shots it is above texts alone.", "gda_4", "zero_shot"),
            _above("At 16 shots it is no worse than class means without the texts.", "gda_16", "means_16"),
            _above(
                "Over 4, 8 and 16 shots it is at most half a point below scikit-learn's LDA with shrinkage.",
                "gda_few",
                "lda_few",
                -0.5,
            ),
            _above("Nor below logistic regression.", "gda_few", "logistic_few", -0.5),
            _above("Nor below Tip-Adapter.", "gda_few", "tip_adapter_few", -0.5),
            _above(
                f"Of {VIEWS} crops of each image, the paper's way, it is 1.5 points above class means at 16 shots.",
                "gda_crops_16",
                "identity_crops_16",
                1.5,
            ),
            _above("The same at 8 shots.", "gda_crops_8", "identity_crops_8", 1.5),
            _above("Digits: 16 shots are 8 points above noisy means alone.", "digits_gda_16", "digits_zero_shot", 8.0),
            _above("Digits: they are 1.5 points above class means.", "digits_gda_16", "digits_identity_16", 1.5),
            _above("Digits: so they are at 8 shots.", "digits_gda_8", "digits_identity_8", 1.5),
            _above("Digits: they are no worse than class means without texts.", "digits_gda_16", "digits_means_16"),
            _above(
                "Digits: over 4, 8 and 16 shots it is at most half a point below LDA beside the same noisy means.",
                "digits_gda_few",
                "digits_lda_beside_texts_few",
                -0.5,
            ),
            _above("Of 16 images a class without labels, it is above texts alone.", "unlabelled_16", "zero_shot"),
            _above(
                "Made for 20 further classes without an image, from 16 of each other, it is above their texts alone.",
                "unseen_extended_16",
                "unseen_zero_shot",
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and synthetic things stand in for OpenAI's models and eleven sets of photographs; texts are one "
        "sentence a class.",
        "Alpha is weighed against the model's own logit scale, about 22, where the paper has 100.",
        "Images are taken as they are, for in a pilot ten random crops of each made every head worse; the paper's way, "
        "with crops, has conditions of its own.",
        "Alpha is chosen on up to four images a class that are not measured; the released search on ImageNet uses the "
        "test images.",
        "In place of an unseen class stands what the paper makes of the nearest images, with the alpha that was chosen "
        "for the learnt ones by its pseudo-inverse of the classes' mean covariance.",
        "Without labels one round of expectation-maximisation is run, since more flatten, and alpha is chosen on "
        "labelled validation rows; the paper's own setting is not known.",
        "At one shot nothing scatters, and it is class means beside texts, an identity but for the values of alpha.",
        "Long-tailed sets and shifted copies of ImageNet are not tried.",
    ),
    tried={
        "all heads on one other seed, with images as they are and with ten crops of each": (
            "At 16 shots 72.8 % with images, where class means beside texts had 75.0, LDA 76.4, logistic "
            "regression 73.7, Tip-Adapter 74.5 and texts alone 68.4; with crops 72.7, class means 68.8, LDA 66.5, "
            "logistic regression 65.4. So the claim is on images as they are, where its peers are strongest. "
            "Ten rounds without labels had 68.3."
        ),
        "digits with noise of 0.3 to 0.8 on the means that stand in for texts, on four other seeds": (
            "0.65 leaves them alone about 73 % right, as in the first trial of this project."
        ),
        (
            "this bed on the same five seeds with class means weighed by the method's own values of alpha, at most "
            "100. Changed since they lay at that end on every draw of digits, which held the baseline down."
        ): "On things 74.5 % at 16 shots against 73.6 for class means; on digits 91.1 against 87.0.",
    },
    minutes=4.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: every head on three draws of 1, 4, 8 and 16 images a class, of things and of digits."""
    from tether.evaluate.few_shot import few_shot
    from tether_lab.worlds import few_shot_heads as heads
    from tether_lab.worlds.held_out_things import held_out_things

    draws = lab.steps(DRAWS, 1)
    things = held_out_things(lab)
    at = heads.embedded_things(lab, things, views=lab.steps(VIEWS))
    crops = {
        "gda_crops": heads.gda(at, crops=True),
        "identity_crops": heads.beside_texts(at, heads.nearest_mean, crops=True),
        "lda_crops": heads.lda(at, crops=True),
    }
    further = {
        "extended": heads.gda(at, precision="mean_class_pinv"),
        "unlabelled": heads.gda_unlabelled(at),
        "tip_adapter_f": heads.tip_adapter(at, keys="tuned"),
    }
    methods = {**_peers(at), "logistic": heads.logistic(at), "tip_adapter": heads.tip_adapter(at), **further, **crops}
    table = few_shot(methods, train=at.train, test=at.test, unseen=things.unseen, shots=SHOTS, draws=draws)
    written = heads.digits(lab)
    digits = few_shot(_peers(written), train=written.train, test=written.test, shots=SHOTS, draws=draws)
    notes = _notes(table) | {f"digits_{name}": value for name, value in _notes(digits).items()}
    return Trial(notes["identity_16"], notes["gda_16"], notes)


def _peers(at: EmbeddedSets) -> dict[str, Method]:
    """Heads that both worlds have."""
    from tether_lab.worlds import few_shot_heads as heads

    return {
        "zero_shot": heads.zero_shot(at),
        "gda": heads.gda(at),
        "identity": heads.beside_texts(at, heads.nearest_mean),
        "means": heads.means_alone(at),
        "lda": heads.lda(at),
        "lda_beside_texts": heads.beside_texts(at, heads.lda_scores),
    }


def _notes(table: FewShotTable) -> dict[str, float]:
    """Per cent right by method and shots, and over all shots above one as ``METHOD_few``; texts need no shots."""
    rows = {(row.method, row.shots): row for row in table.rows()}
    found = {f"{method}_{shots}": row.accuracy.value for (method, shots), row in rows.items() if row.accuracy}
    found |= {f"unseen_{method}_{shots}": row.unseen.value for (method, shots), row in rows.items() if row.unseen}
    names = {name.rpartition("_")[0] for name in found}
    few = {f"{name}_few": sum(found[f"{name}_{shots}"] for shots in SHOTS[1:]) / len(SHOTS[1:]) for name in names}
    texts = {name: found[f"{name}_{SHOTS[0]}"] for name in ("zero_shot", "unseen_zero_shot") if name in names}
    kept = {name: value for name, value in {**found, **few}.items() if "zero_shot" not in name}
    return {name: 100 * value for name, value in (kept | texts).items()}
