"""What to try next, by what was found."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from tether.adaptation.recipes import Case, Recipe
from tether.evaluate.adaptation import Compared


def next_steps(
    made: Recipe,
    *,
    others: Sequence[str],
    case: Case,
    own: Sequence[Compared],
    keep: Sequence[Compared],
    interpolated: bool,
    base: str,
    folder: str,
    classes: Sequence[str] = (),
) -> Iterator[str]:
    """Commands and advice, one a line; the most useful first.

    Args:
        made: the recipe.
        others: those that also suit the data and take the model, cheapest first.
        case: the data.
        own: figures of the held-out part.
        keep: figures of what must not be forgotten.
        interpolated: whether weights between base and tuned model were looked at.
        base: the model's name.
        folder: of the result.
        classes: that the result asks to be named, if it does.
    """
    better = bool(own) and own[0].verdict == "better"
    if own and not better:
        tries = made.simpler or " or ".join(others[:2]) or "more data"
        yield f"it is not shown to be better than the base: keep the base, or try {tries}"
        if own[0].n < 200:
            yield f"{own[0].n} held-out rows tell little apart: bring more with --test DATA"
    if made.gives == "model" and keep and keep[0].verdict == "worse" and not interpolated:
        yield "--interpolate looks for weights between base and tuned model that forget less"
    if made.gives in ("head", "both"):
        model = base if made.gives == "head" else folder
        told = made.used_as.format(folder=folder) or f"--head {folder} --out {made.used_by}.csv"
        if classes:
            told = told.replace("NAMES", shlex.quote(",".join(classes)))
        yield f"tether {made.used_by} PHOTOS --model {model} {told}"
        if made.gives == "head" and made.takes == "labels" and case.least < 8:
            yield "more images a class are the surest way to a better head"
    elif better:
        yield f"tether eval {folder} OTHER-DATA measures it elsewhere; tether search PHOTOS --model {folder} uses it"
