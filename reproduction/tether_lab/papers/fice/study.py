"""FICE: clothes changed by a text through the codes of a generator, while pose, head and ground stay."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "fice",
    claim=Claim(
        says="Moving the codes of an image towards a text with all of FICE's terms keeps the parts of a made person "
        "where they were, which the text alone does not, and changes the clothes as often.",
        metric="mean IoU of six parts, found by a second net in what was generated, with the true ones before the "
        "edit, points",
        margin=10.0,
        baseline="the same loop with the text's term alone",
        scale="60 made people of 32 px, one change each of colour, pattern or sleeves, the whole caption as text; a "
        "style auto-encoder of 4 codes of 32 trained on 3,000 people, a CLIP and a net of parts likewise; 100 steps",
        equal="images, texts, starting codes, steps and encoder, and a rate of its own for each way, by one rule on "
        "the pilots among 0.05, 0.025, 0.0125 and 0.00625, and 0.1 and 0.003125 of the text alone; 100 steps with all "
        "terms take 3.5 times the processor time of 100 with the text alone",
        conditions=(
            Condition(
                says="The head, before the real one is pasted over it, has at least 3 dB more PSNR.",
                ours="head",
                than="head_clip",
                least=3.0,
            ),
            Condition(
                says="A classifier that saw other people sees the change at most 5 points less often.",
                ours="looks",
                than="looks_clip",
                least=-5.0,
            ),
            Condition(
                says="A second CLIP sees the change, among all values, at most 5 points less often.",
                ours="found",
                than="found_clip",
                least=-5.0,
            ),
            Condition(
                says="Parts are kept better than with the terms of text and ground alone.",
                than="miou_clip_img",
            ),
            Condition(
                says="Without the term of the codes' spread, results are further from the nearest of 500 real images "
                "for the second CLIP.",
                ours="real",
                than="real_free",
                better="lower",
            ),
        ),
    ),
    differences=(
        "A small style auto-encoder that is trained here stands in for StyleGAN and its encoder e4e, made people of 32 "
        "px for photos of clothes, one net of parts for DensePose and DeepLab, a tiny CLIP for RN50x4.",
        "The release makes 501 steps and shows what was there before the last; steps=500 gives the same without it.",
        "The pose is held by the probabilities of six parts, the ground among them.",
        "The text's term weighs 3, not 1, for a tiny CLIP's cosines are others than RN50x4's; the pilots chose it.",
        "The auto-encoder, the classifier, the second CLIP and the second net of parts are trained once for all "
        "seeds; people, changes, CLIP and net of parts differ.",
    ),
    tried={
        (
            "this bed with rates from 0.003125 to 0.05, pilot seeds 10 and 11; of each way the smallest is taken "
            "whose mean of both judges is at most 2 points below the way's best"
        ): (
            "Both judges together saw 83.3, 81.3, 81.3 and 80.8 % of changes with all terms at 0.05, 0.025, "
            "0.0125 and 0.00625 (IoU 87.1 to 86.3), 82.9, 84.2, 84.6 and 82.5 % with text and ground (IoU 80.2, 81.1, "
            "82.0, 81.8), and 87.1, 85.4, 87.1, 86.3 and, at 0.003125, 78.3 % with the text alone (IoU 65.8, 70.2, "
            "73.1, 75.5, 77.7). So the text alone keeps more at a gentle rate: as taken, IoU was 87 with all terms, 82 "
            "with text and ground, 76 with the text alone; the head had 21.5, 22.5 and 18.8 dB."
        ),
        (
            "this bed with the text alone at 0.05, seeds 0 to 4: a rate that was chosen by changes alone of 0.05 "
            "and 0.1"
        ): (
            "IoU was 22.6 points [21.1, 24.2] higher with all terms than with the text alone, the head 7.7 dB "
            "better, changes 8.3 (classifier) and 3.7 points (second CLIP) fewer; in part. A reviewer found that step "
            "length alone may make the difference, so it was measured again: 13.0 were left."
        ),
        (
            "this bed with two settings a way, pilot seeds 10 and 11; the one with the higher mean of both judges "
            "is taken, and where they differ by less than 2 points the smaller"
        ): (
            "Both judges together saw 83.3 % of changes with all terms at weight 3 and 79.6 % at 1, 82.9 % "
            "with text and ground at either, 87.1 % with the text alone at rate 0.05 and 86.7 % at 0.1. As taken, IoU "
            "was 87 with all terms, 80 with text and ground, 66 with the text alone; the head had 21.5, 23.0 and 14.0 "
            "dB. At weight 1 the distance to real images hardly differed with and without the codes' spread."
        ),
        (
            "people who stand and hold their arms anyhow, a narrower distribution of codes and 1,000 steps of the "
            "auto-encoder, pilot seed 10, 24 people"
        ): (
            "The auto-encoder lost most arms (IoU 64 and 18.0 dB at the head without an edit); IoU was 67 with "
            "all terms, 62 with text and ground, 54 with the text alone, 71 without the codes' spread, whose images "
            "were also nearer to real ones."
        ),
    },
    minutes=9.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: the four ways, and what the auto-encoder keeps without an edit."""
    from dataclasses import asdict

    from tether_lab.worlds import dressed_edits, dressed_people

    wanted = dressed_people.wanted_looks(lab, count=lab.steps(dressed_edits.PEOPLE, 6))
    found = {
        name: dressed_edits.judged(
            lab, dressed_edits.edited(lab, wanted, weights=weights, lr=dressed_edits.RATES[name]), wanted
        )
        for name, weights in dressed_edits.ARMS.items()
    }
    found["rebuilt"] = dressed_edits.judged(lab, dressed_edits.rebuilt(lab, wanted), wanted)
    notes = {f"{key}_{name}": value for name, one in found.items() for key, value in asdict(one).items()}
    ours = asdict(found["ours"])
    notes = {key: value for key, value in notes.items() if not key.endswith("_ours")}
    return Trial(found["clip"].miou, found["ours"].miou, {**ours, **notes})
