"""LEAF: a text tower that gives texts with a wrong character the rows that it gave them without."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

RATES = {"leaf": 3e-3, "worst": 1e-2, "plain": 1e-2}
"""Learning rates, the better of two for each on another seed."""

CARD = Card.of(
    "leaf",
    claim=Claim(
        says="A text tower tuned by LEAF's attack finds more images by captions of which Charmer changed a character "
        "than one that was tuned with random typos and read as many texts.",
        metric="captions that find their image first among 100 after Charmer changed one character (10 places, the "
        "whole alphabet), percentage points",
        margin=2.0,
        baseline="the better, on each seed, of two: the worst of 40 random typos of each text, as many as LEAF has "
        "candidates; and one random typo of each text, with 2,100 steps of 48 texts in place of 400 of 12",
        scale="a tiny CLIP with a token for each character, taught 3,000 scenes of one thing at 64 px for 500 steps; "
        "its text tower tuned for 400 steps with rho 20 and one changed character on 870 captions, such as 'a red "
        "circle on grass'; 100 other captions to ask, and an image of each",
        equal="start, captions, constraint, loss, learning rates tried, texts read in tuning (a text of LEAF's counts "
        "as 42: its candidates, the clean one and the one that is learnt; a random typo as 2); steps alike but for one "
        "random typo, whose tuning takes up to twice LEAF's processor time",
        conditions=(
            Condition(
                says="Under attack it finds no less than after tuning on the worst of as many random typos.",
                than="attacked_worst",
            ),
            Condition(
                says="Under attack it finds 10 points more than before tuning.",
                than="attacked_base",
                least=10.0,
            ),
            Condition(
                says="By clean captions it finds at most 3 points less than before tuning.",
                ours="clean_leaf",
                than="clean_base",
                least=-3.0,
            ),
            Condition(
                says="LEAF's attack with rho 50 moves rows at least 30 % less from the untuned model's clean ones, by "
                "the mean squared distance, than before tuning.",
                ours="saved_leaf",
                than=30.0,
            ),
        ),
    ),
    differences=(
        "A tiny CLIP of characters and captions of some forty words stand in for the paper's CLIPs, their byte pairs "
        "and 80,000 texts; the captions asked are other combinations of the words that are tuned on.",
        "400 steps of 12 texts with rho 20, where the release has 30 epochs of 128 with rho 50, and a learning rate "
        "that fits so few. The image tower is the plain one, where the paper has a robust one beside.",
        "The words of the constraint are those of the captions that are tuned on, not an English list. It holds in "
        "training, for all alike; the attacks that measure are free of it.",
        "Charmer aims at the margin between the right image and the best wrong one of 100, and keeps 10 places where "
        "the paper keeps 20.",
        "More than one changed character, text encoders of other libraries, image generation and the reconstruction "
        "of texts are not measured.",
    ),
    tried={
        (
            "captions of a size, a colour and a shape, 900 steps of base, 300 of tuning at 1e-3; a pilot on seed "
            "100 with 50 captions. Changed since the base found too little."
        ): (
            "The base found 58 % and 0 % under attack; after LEAF 58 % and 0 %, the squared distance under "
            "attack 107 before and 41 after."
        ),
        (
            "captions with a background, capitals read apart from small letters, 300 steps at 3e-3; a pilot on "
            "seed 103 with 40 captions. Changed to 400 steps, and to capitals read as CLIP's tokenizer reads them."
        ): "90 % and 0 % under attack before, 88 % and 8 % after LEAF.",
        "learning rates of 3e-3 and 1e-2 for each of the three; a pilot on seed 100 with 50 captions": (
            "Before, 86 % and 0 % under attack. At 3e-3 LEAF has 84 and 20 %, the worst of 40 88 and 22 %, one "
            "random typo 82 and 26 %; at 1e-2 84 and 20 %, 82 and 28 %, 84 and 46 %. LEAF keeps 3e-3, at which rows "
            "move less; the others have 1e-2. The claim was left as it was."
        ),
    },
    minutes=12.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: a small CLIP, its text tower tuned by LEAF's attack and in two ways by random typos."""
    from tether_lab.worlds import mistyped

    things, start = mistyped.asked(lab), mistyped.base(lab)
    models = {"base": start} | {
        arm: mistyped.tuned(lab, start, things.learnt, arm=arm, rate=RATES[arm]) for arm in mistyped.ARMS
    }
    notes: dict[str, float] = {}
    for name, model in models.items():
        found = mistyped.stood(lab, model, start, things)
        for figure in ("clean", "attacked", "moved", "moved_charmer", "still"):
            notes[f"{figure}_{name}"] = getattr(found, figure)
        notes[f"saved_{name}"] = 100 * (1 - found.moved / notes["moved_base"])
    return Trial(max(notes["attacked_worst"], notes["attacked_plain"]), notes["attacked_leaf"], notes)
