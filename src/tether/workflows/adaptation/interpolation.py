"""Weights between the base and a tuned model, and the share of the way that a validation part likes best."""

from __future__ import annotations

from typing import cast

from torch import nn

from tether.adapt.weights import interpolate
from tether.core.protocols import DualEncoder, Source
from tether.evaluate.adaptation.report import CurvePoint
from tether.workflows.adaptation.measure import Measurer

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


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
        points.append(
            CurvePoint(share, score, own[0].after.value if own else score, keep[0].after.value if keep else None)
        )
        if best is None or score > best[0]:
            best = score, model, share
    assert best is not None
    return points, best[1], best[2]
