"""CLIPDrawX: lines, circles and semicircles moved by linear maps alone, so that each can be followed to its end."""

from __future__ import annotations

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CARD = Card.of(
    "clipdrawx",
    claim=Claim(
        says="Where a step leaves out one stroke in ten, fewer of the strokes of the finished sketch say nothing.",
        metric="strokes without which the cosine to the prompt stays the same within 0.001, percentage points",
        better="lower",
        margin=5.0,
        baseline="the same primitives, start, rates and steps with none left out",
        scale="tiny CLIPs of 48 px on scenes of six colours and four shapes; 24 primitives, 150 steps, 8 prompts a "
        "seed",
        equal="all but the share that is left out, 0.1 or none; nothing was tuned for either, and the rates "
        "are those of CLIPDraw's pilots",
        conditions=(
            Condition(
                says="A second CLIP names the sketches right no more than 5 points less often than as many cubic "
                "strokes after as many steps.",
                ours="top1_primitives",
                than="top1_strokes",
                least=-5.0,
            ),
        ),
    ),
    differences=(
        "There is no public code: how primitives start, their rates, the share that is left out and the features of "
        "the visual loss are ours.",
        "Strokes start in the middle patches, not where a diffusion model's attention lies; attention can be given.",
        "Strokes are coloured, since the prompts name colours: 11 numbers each against 19 on average (58 %). In black "
        "they have 8.",
        "The visual loss needs a reference and is not used here. The study with people cannot be shown.",
        "Tiny CLIPs of drawn shapes, 48 pixels and 24 strokes; seeds 2 k and 2 k + 1 judge each other's drawings.",
    ),
    minutes=8.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: primitives with and without dropout, and cubic strokes, judged alike."""
    from tether_lab.worlds import drawn_prompts as bed

    found = bed.bed(lab, prompts=8)
    arms = {
        "primitives": bed.drawings(lab, found, bed.primitives, faster=bed.FASTER),
        "no_dropout": bed.drawings(lab, found, bed.primitives, faster=bed.FASTER, dropout=0.0),
        "strokes": bed.drawings(lab, found, bed.strokes, faster=bed.FASTER),
    }
    notes = {f"{what}_{arm}": value for arm, drawn in arms.items() for what, value in bed.judged(found, drawn).items()}
    notes |= {f"idle_{arm}": bed.idle_share(found, drawn) for arm, drawn in arms.items()}
    flat = [float(canvas.collapsed.float().mean()) for canvas in arms["primitives"].canvases]  # pyrefly: ignore
    notes["collapsed"] = 100 * sum(flat) / len(flat)
    return Trial(notes["idle_no_dropout"], notes["idle_primitives"], notes)
