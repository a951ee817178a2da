"""What a comparison of clippers on somebody's own run says: numbers, advice by a stated rule, table and page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tether.training.config import Spec
from tether.workflows.clipper_comparison.curves import curves
from tether.workflows.clipper_comparison.sections import StabilityReport, StabilitySection, VerdictGrid
from tether.workflows.clipper_comparison.trace import BEFORE, DEVIATIONS, RISE, RunTrace, spikes

LAST = 0.2
"""Fraction of the steps, from the end, whose losses are compared; at least ``LEAST`` of them."""
LEAST = 10
MATTERS = 0.02
"""A difference of the loss that is worth a change, as a fraction of it; it must also be twice its standard error."""
OFTEN = 0.5
"""A limit that acts in more than this fraction of the steps is a smaller learning rate rather than a guard."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one clipper did.

    Attributes:
        name: in ``CLIPPERS``.
        spec: the part with its settings, as a recipe has it.
        steps: steps done; fewer than asked for only if it diverged.
        loss: mean over the last steps; of those that are finite; None when over half are not.
        less: loss less that of the recipe's clipper on the same batches, over the last steps; None without one of them.
        error: standard error of that, from the single steps.
        spikes: how often the loss jumped, see ``trace.spikes``.
        skipped: steps whose gradients were not finite.
        clipped: fraction of the steps in which gradients were scaled down.
        largest: largest gradient norm before clipping.
        usual: median gradient norm before clipping.
        threshold: the limit at the last step, in units of the norm; None when there is none.
        cost: time of one calm call, ``torch.nn.utils.clip_grad_norm_`` = 1.
        diverged: why it stopped early, or the empty string.
    """

    name: str
    spec: Spec
    steps: int
    loss: float | None
    less: float | None
    error: float | None
    spikes: int
    skipped: int
    clipped: float
    largest: float | None
    usual: float | None
    threshold: float | None
    cost: float
    diverged: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All clippers on one run.

    Attributes:
        steps: of each.
        own: name of the recipe's clipper.
        peak: highest learning rate so far as a fraction of the whole run's: below 1 the warm-up is not over.
        seen: the clippers, in the order they ran.
        advice: plain sentences, the answer first; they follow from ``seen`` by ``advise``.
    """

    steps: int
    own: str
    peak: float
    seen: tuple[Seen, ...]
    advice: tuple[str, ...]


def look(name: str, spec: Spec, trace: RunTrace, *, cost: float, beside: RunTrace, diverged: str = "") -> Seen:
    """What a trace tells about one clipper.

    Args:
        name: of the clipper.
        spec: with its settings.
        trace: of its run.
        cost: see ``Seen``.
        beside: that of the recipe's clipper; the batches are the same, so steps are paired.
        diverged: why it stopped early, or the empty string.
    """
    losses, norms = trace.losses, [norm for norm in trace.norms if norm is not None]
    last = last_steps(len(losses))
    known = [loss for loss in losses[-last:] if loss is not None]
    pairs = list(zip(losses, beside.losses, strict=False))[-last:]
    differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    paired = len(losses) == len(beside.losses) and _enough(differences, of=last)
    return Seen(
        name=name,
        spec=spec,
        steps=len(losses),
        loss=statistics.fmean(known) if _enough(known, of=min(last, len(losses))) and not diverged else None,
        less=statistics.fmean(differences) if paired else None,
        error=statistics.stdev(differences) / math.sqrt(len(differences)) if paired else None,
        spikes=spikes(losses),
        skipped=len(trace.skipped),
        clipped=trace.clipped,
        largest=max(norms, default=None),
        usual=statistics.median(norms) if norms else None,
        threshold=trace.thresholds[-1] if losses else None,
        cost=cost,
        diverged=diverged,
    )


def advise(found: Comparison) -> list[str]:
    """What follows from the numbers, the answer first.

    A clipper is better than the recipe's when its loss over the last steps is lower by ``MATTERS`` of it and by twice
    the standard error, or when the recipe's diverged and it did not. Of several within ``MATTERS`` of the best the
    cheapest is named. If none is better, but one has fewer spikes and skipped steps at no worse a loss, that is said.
    Otherwise: no difference, keep what you have.
    """
    own = next(one for one in found.seen if one.name == found.own)
    said = [_answer(found, own)]
    if own.clipped > OFTEN and own.usual is not None:
        said.append(
            f"{own.name} clipped {own.clipped:.0%} of the steps: with a usual norm of {own.usual:.3g} it works as a "
            "smaller learning rate more than as a guard."
        )
    if failed := [one.name for one in found.seen if one.diverged]:
        said.append(f"Gradients were not finite for too long with {', '.join(failed)}.")
    if found.peak < 0.999:
        said.append(
            f"The learning rate had reached {found.peak:.0%} of its peak: more --compare-steps may change the result."
        )
    return said


def _answer(found: Comparison, own: Seen) -> str:
    losses = {one.name: one.loss for one in found.seen if one.loss is not None and _better(one, own)}
    if losses:
        costs = {one.name: one.cost for one in found.seen}
        best, *others = as_good(losses, tie=MATTERS * abs(min(losses.values())), order=costs.__getitem__)
        also = f" ({', '.join(others)}: as good)" if others else ""
        if own.loss is None:
            return f"Try clipper={best}{also}: {own.name} diverged and it did not."
        lower = (own.loss - losses[best]) / abs(own.loss)
        return (
            f"Try clipper={best}{also}: over the last {last_steps(found.steps)} of {found.steps} steps the loss "
            f"was {lower:.1%} lower than with {own.name}, on the same batches."
        )
    if own.loss is None:
        return f"Every clipper failed as {own.name} did: look at the data and the learning rate first."
    trouble = own.spikes + own.skipped
    calmer = [
        one
        for one in found.seen
        if one.spikes + one.skipped < trouble and one.less is not None and one.less <= MATTERS * abs(own.loss)
    ]
    if calmer:
        best = min(calmer, key=lambda one: (one.spikes + one.skipped, one.cost))
        return (
            f"The losses do not differ by {MATTERS:.0%}, but {best.name} had {best.spikes} spikes and {best.skipped} "
            f"skipped steps where {own.name} had {own.spikes} and {own.skipped}: try clipper={best.name}."
        )
    return f"No difference that matters: keep what you have, clipper={own.name}."


def _better(one: Seen, own: Seen) -> bool:
    if one.loss is None or one is own:
        return False
    if own.loss is None:
        return True
    return one.less is not None and one.error is not None and one.less < min(-MATTERS * abs(own.loss), -2 * one.error)


def _enough(known: Sequence[float], *, of: int) -> bool:
    """One bad batch among the last steps is no divergence; when more than half of them are bad nothing can be said."""
    return len(known) >= 2 and 2 * len(known) >= of


def last_steps(steps: int) -> int:
    """How many of the last steps are compared."""
    return max(LEAST, round(LAST * steps))


def report(name: str, found: Comparison, traces: Mapping[str, RunTrace]) -> StabilityReport:
    """The page of a comparison.

    Args:
        name: of the run.
        found: what was seen.
        traces: by clipper.
    """
    return StabilityReport(
        title=name,
        kind="clippers compared",
        lede=f"The first {found.steps} steps of this run, once with each clipper: the same weights, the same batches, "
        "the same learning rates.",
        command="tether train --clipper compare",
        sections=[
            StabilitySection(
                "Advice",
                f"It follows from the table by a rule. One seed and {found.steps} steps can show a clipper that harms "
                "or that saves a run; they cannot show small gains.",
                lines=found.advice,
            ),
            StabilitySection(
                "What each did",
                "Loss is the mean over the last steps; “less *” is the paired difference from the recipe's own clipper "
                "(*) on those batches, with its standard error. A spike is a loss above the median of the "
                f"{BEFORE} steps before by {RISE:.0%} of it and by {DEVIATIONS:g} times their spread; a loss that is "
                "not finite is one too. Max, usual and limit are of the gradient norm. Cost is time of a call with "
                "small gradients, the same each time, `clip_grad_norm_` = 1.",
                grids=[grid(found, errors=True)],
            ),
            StabilitySection(
                "Curves",
                "Point at a curve to read it.",
                curves=[
                    curves(
                        clipper,
                        trace,
                        name=clipper,
                        beside={} if clipper == found.own else {f"{found.own} (yours)": traces[found.own]},
                    )
                    for clipper, trace in traces.items()
                ],
            ),
        ],
    )


def grid(found: Comparison, *, errors: bool = False) -> VerdictGrid:
    """The clippers as a table; the recipe's own is marked with a star.

    Args:
        found: what ``compare`` gave.
        errors: whether differences stand with their standard errors.
    """
    rows = [
        (
            f"{one.name} *" if one.name == found.own else one.name,
            f"ruined at {one.steps}" if one.diverged else _digits(one.loss),
            ""
            if one.less is None or one.name == found.own
            else f"{one.less:+.3f}" + (f" ± {one.error:.3f}" if errors else ""),
            str(one.spikes),
            str(one.skipped),
            f"{one.clipped:.0%}",
            _digits(one.largest),
            _digits(one.usual),
            _digits(one.threshold),
            f"{one.cost:.2f}",
        )
        for one in found.seen
    ]
    head = ("clipper", "loss", "less *", "spikes", "skips", "clipped", "max", "usual", "limit", "cost")
    return VerdictGrid("Clippers", head, rows, own=[f"{found.own} *"])


def _digits(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def as_good(losses: Mapping[str, float], *, tie: float, order: Callable[[str], Any]) -> list[str]:
    """Which guards to take: those whose loss is within ``tie`` of the lowest, the one to take first.

    Args:
        losses: of the guards that come into question, by name; at least one.
        tie: a difference of the loss that does not matter.
        order: what decides among them, such as the cost; the lowest goes first.
    """
    most = min(losses.values()) + tie
    return sorted((name for name, loss in losses.items() if loss <= most), key=order)
