"""The charts of a run, out of its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tether.evaluate.html.curves import Band, Chart, Line, Marks, chart, running_mean

Records = Sequence[Mapping[str, Any]]


def of_run(records: Records) -> list[Chart]:
    """Loss, gradient norm, learning rate, temperature, recall, speed."""
    steps = [record for record in records if "loss" in record]
    evals = [record for record in records if isinstance(record.get("eval"), Mapping)]
    charts = [
        chart(
            "Loss",
            lines=_smoothed(steps, "loss"),
            marks=[
                Marks("skipped step", "skipped", skipped(steps)),
                Marks("undone step", "clipped", _undone(records)),
            ],
        ),
        gradient_norm(steps, limit="threshold", note=_norm_note(steps)),
        *_recall(evals),
        chart("Learning rate", lines=[Line("learning rate", "main", column(steps, "lr"))]),
        chart("Scale of the logits", lines=[Line("logit scale", "main", column(steps, "logit_scale"))]),
        chart("Images per second", lines=_smoothed(steps, "images_per_second")),
    ]
    return [one for one in charts if one is not None]


def gradient_norm(steps: Records, *, limit: str, note: str = "") -> Chart | None:
    """The norm of each step with the clipper's limit; clipped and skipped steps are marked.

    Args:
        steps: records of training steps.
        limit: what the limit is called.
        note: below the chart.
    """
    lines = [Line("norm", "main", column(steps, "grad_norm")), Line(limit, "limit", column(steps, "grad_threshold"))]
    refused = [(record["step"], record.get("grad_norm")) for record in steps if record.get("skipped")]
    marks = [Marks("clipped", "clipped", _clipped(steps)), Marks("skipped", "skipped", refused)]
    return chart("Gradient norm", lines=lines, marks=marks, scale="log", note=note)


def column(steps: Records, name: str) -> list[tuple[float, float | None]]:
    """One value by step."""
    return [(record["step"], record.get(name)) for record in steps]


def skipped(steps: Records) -> list[tuple[float, float | None]]:
    """The skipped steps, at no height."""
    return [(record["step"], None) for record in steps if record.get("skipped")]


def _undone(records: Records) -> list[tuple[float, float | None]]:
    """The steps that the run went back over, at the losses that they had."""
    told = [record["rollback"] for record in records if isinstance(record.get("rollback"), Mapping)]
    return [(one["to"] + place, loss) for one in told for place, loss in enumerate(one.get("losses", []))]


def _clipped(steps: Records) -> list[tuple[float, float | None]]:
    return [
        (record["step"], record.get("grad_norm"))
        for record in steps
        if not record.get("skipped") and (record.get("grad_scale") or 1.0) < 1.0
    ]


def _norm_note(steps: Records) -> str:
    count = len(skipped(steps))
    rest = f"{count:,} skipped because a gradient was not finite." if count else "none was skipped."
    return f"{len(_clipped(steps)):,} of {len(steps):,} steps were clipped, {rest}"


def _smoothed(steps: Records, name: str) -> list[Line]:
    values = column(steps, name)
    return [Line("each step", "faint", values), Line("running mean", "main", running_mean(values))]


def _recall(evals: Records) -> list[Chart | None]:
    ways = (("text to image", "main", "text_to_image_r10"), ("image to text", "second", "image_to_text_r10"))
    lines = [Line(name, kind, _per_cent(evals, key)) for name, kind, key in ways]
    lines += [Line("chance", "chance", _per_cent(evals, "text_to_image_r10_chance"))]
    if not lines[0].points:
        return []
    lows, highs = (_per_cent(evals, f"text_to_image_r10_{side}") for side in ("low", "high"))
    band = Band("95 % interval", [(step, low, high) for (step, low), (_, high) in zip(lows, highs, strict=True)])
    lines = [line for line in lines if line.points]
    return [chart("Held-out recall at 10, per cent", lines=lines, bands=[band], from_zero=True)]


def _per_cent(evals: Records, key: str) -> list[tuple[float, float]]:
    return [(one["step"], 100 * one["eval"][key]) for one in evals if key in one["eval"]]
