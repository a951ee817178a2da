"""Weights between the base and a tuned model, and the share of the way that a validation part likes best."""

from __future__ import annotations

from typing import cast

from torch import nn

from tether.adaptation.weights import interpolate
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.evaluate.adaptation.report import CurvePoint
from tether.workflows.adaptation.data import WORDLESS
from tether.workflows.adaptation.measure import Measurer

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def check_told_apart(validation: Source) -> None:
    """Refuse a part to choose on whose captions cannot tell its images apart, by which all shares would score alike.

    Raises:
        InputError: it has fewer than two different captions.
    """
    first = None
    for row in (row for block in validation.blocks() for row in validation.read(block) if not row.bad):
        for text in row.texts:
            if text.strip() and text != WORDLESS:
                if first is not None and text != first:
                    return
                first = text
    has = "one caption for all" if first else "none"
    raise InputError(
        f"--interpolate: needs captions or labels that tell images apart; {validation.name}, on which it would choose, "
        f"has {has}"
    )


def along(
    base: DualEncoder, tuned: DualEncoder, *, validation: Source, measurer: Measurer
) -> tuple[list[CurvePoint], DualEncoder, float]:
    """Measure at each of ``SHARES`` and choose by the validation part alone; of equals the one nearest to the base.

    Args:
        base: where the tuning began.
        tuned: where it ended.
        validation: the part to choose by.
        measurer: of the other two.

    Returns:
        The curve, the chosen model, and its share.
    """
    points: list[CurvePoint] = []
    best: tuple[float, DualEncoder, float] | None = None
    for share in SHARES:
        model = cast(DualEncoder, interpolate(cast(nn.Module, base), cast(nn.Module, tuned), share=share))
        score = measurer.score(model, validation)
        own = measurer.own(model, None)
        keep = measurer.kept(model)
        points.append(CurvePoint(share, score, *(one[0].after.value if one else None for one in (own, keep))))
        if best is None or score > best[0]:
            best = score, model, share
    assert best is not None
    return points, best[1], best[2]
