"""Curves of trainings: the loss beside that of others, and the gradient norm with the limit that met it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tether.evaluate.html.curves import Chart, Kind, Line, Marks, chart, running_mean
from tether.workflows.clipper_comparison.trace import RunTrace

BESIDE: tuple[Kind, ...] = ("second", "limit")


@dataclass(frozen=True, slots=True)
class LossCurves:
    """Charts under one heading.

    Attributes:
        title: the heading.
        says: a remark beside it, or the empty string.
        charts: loss and gradient norm; fewer where there is nothing to draw.
        group: which figure of the guide they belong to: a model's name.
    """

    title: str
    says: str
    charts: tuple[Chart, ...]
    group: str = ""


def curves(
    title: str,
    trace: RunTrace,
    *,
    name: str,
    beside: Mapping[str, RunTrace],
    planted: Sequence[int] = (),
    says: str = "",
    group: str = "",
) -> LossCurves:
    """Two charts of one training.

    Args:
        title: above them.
        trace: of the training.
        name: of its guard.
        beside: others, at most two, to draw the loss of; of the first the norm is drawn too.
        planted: steps at which the loss was spoiled on purpose: their own loss is left out.
        says: see ``LossCurves``.
        group: see ``LossCurves``.
    """
    lines = [
        Line(label, kind, _smooth(other, planted)) for (label, other), kind in zip(beside.items(), BESIDE, strict=False)
    ]
    lines.append(Line(name, "main", _smooth(trace, planted)))
    at = dict(lines[-1].points)
    skipped = [(step, None) for step in trace.skipped]
    faults = [(step, at.get(step)) for step in planted]
    norms = dict(enumerate(trace.norms))
    clipped = [
        (step, norms[step])
        for step, scale in enumerate(trace.scales)
        if scale < 1 and norms[step] is not None and step not in trace.skipped
    ]
    drawn = (
        chart(
            "Loss, running mean",
            lines=lines,
            marks=[Marks("skipped step", "skipped", skipped), Marks("fault", "skipped", faults)],
        ),
        chart(
            f"Gradient norm under {name}",
            lines=[
                *(Line(label, "second", list(enumerate(other.norms))) for label, other in list(beside.items())[:1]),
                Line("norm", "main", list(enumerate(trace.norms))),
                Line("limit", "limit", list(enumerate(trace.thresholds))),
            ],
            marks=[Marks("clipped", "clipped", clipped), Marks("skipped", "skipped", skipped)],
            scale="log",
        ),
    )
    return LossCurves(title, says, tuple(one for one in drawn if one is not None), group)


def _smooth(trace: RunTrace, planted: Sequence[int]) -> list[tuple[float, float | None]]:
    return running_mean([(step, loss) for step, loss in enumerate(trace.losses) if step not in planted])
