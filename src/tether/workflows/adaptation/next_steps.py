"""What to try next, by what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tether.adapt.recipes import Case
from tether.evaluate.adaptation import Compared


def next_steps(
    others: Sequence[str],
    *,
    gives: str,
    case: Case,
    own: Sequence[Compared],
    keep: Sequence[Compared],
    interpolated: bool,
    base: str,
    folder: str,
) -> Iterator[str]:
    """Commands and advice, one a line; the most useful first.

    Args:
        others: recipes that also suit the data and take the model, cheapest first.
        gives: what the recipe gives.
        case: the data.
        own: figures of the held-out part.
        keep: figures of what must not be forgotten.
        interpolated: whether weights between base and tuned model were looked at.
        base: the model's name.
        folder: of the result.
    """
    better = bool(own) and own[0].verdict == "better"
    if own and not better:
        tries = " or ".join(others[:2]) or "more data"
        if recipe == "order":
            tries = "ridge regression: tether rank --examples"
        yield f"it is not shown to be better than the base: keep the base, or try {tries}"
        if own[0].n < 200:
            yield f"{own[0].n} held-out rows tell little apart: bring more with --test DATA"
    if gives == "model" and keep and keep[0].verdict == "worse" and not interpolated:
        yield "--interpolate looks for weights between base and tuned model that forget less"
    if recipe == "order":
        yield f"tether rank PHOTOS --model {base} --head {folder} --out order.csv"
    elif gives == "head":
        yield f"tether classify PHOTOS --model {base} --head {folder} --out named.csv"
        if case.least < 8:
            yield "more images a class are the surest way to a better head"
    elif gives == "both":
        yield f"tether classify PHOTOS --model {folder} --head {folder} --out named.csv"
    elif better:
        yield f"tether eval {folder} OTHER-DATA measures it elsewhere; tether search PHOTOS --model {folder} uses it"
