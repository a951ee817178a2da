"""What is to be said of a run's settings before it begins: answers among its data, and a warm-up that does not end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data import open_source
from tether.training.config import RunConfig, Spec
from tether.training.schedules import SCHEDULES
from tether.training.stages import Stretch, stretches


def remarks(config: RunConfig) -> Iterator[str]:
    """One sentence for each thing that a run would pass over in silence.

    Args:
        config: with its length in steps, see ``training.epochs.with_steps``.

    Raises:
        InputError: data that cannot be opened.
    """
    if config.fit is not None:
        return
    yield from dict.fromkeys(_warm_ups(stretches(config, where="settings")))
    if config.evaluate is not None and (count := shared_captions(config, config.evaluate.source)):
        yield (
            f"the text pairs hold {count:,} captions of held-out images: held-out text_retrieval would be too good; "
            "make the pairs of the training part alone (split:source=...,part=train)"
        )


def shared_captions(config: RunConfig, held_out: Spec | Source) -> int | None:
    """How many captions of held-out images the text pairs of a run hold; None for a run without text pairs.

    Raises:
        InputError: data that cannot be opened.
    """
    data: list[Spec] = []
    for one in (config, *config.stages):
        own = one.data or config.data, one.contents or config.contents
        for spec, contents in (own, *((beside.data, beside.contents) for beside in (one.beside or {}).values())):
            if contents.get("pairs") is not None and spec not in data:
                data.append(spec)
    if not data:
        return None
    held = {text for text in _texts(held_out) if text.strip()}
    return len({text for spec in data for text in _texts(spec) if text in held})


def _texts(spec: Spec | Source) -> Iterator[str]:
    """All captions, queries and positives of a source."""
    from tether.data.text_pairs import TextPairs

    source = open_source(spec, where="data")
    for row in (row for block in source.blocks() for row in source.read(block)):
        yield from row.texts
        with contextlib.suppress(InputError):  # a bad row, which the loader names
            yield from TextPairs().words_of(row)


def _warm_ups(plan: Sequence[Stretch]) -> Iterator[str]:
    for stretch in plan:
        warmup = build(stretch.config.schedule, SCHEDULES, where="settings: schedule").warmup
        steps, whose = stretch.config.steps, "run"
        if stretch.own_schedule:
            steps, whose = stretch.end - stretch.first, f"stage from step {stretch.first}"
        if warmup > steps:
            yield (
                f"schedule.warmup of {warmup:,} steps is longer than the {whose}, {steps:,} steps: the learning rate "
                f"ends at {steps / warmup:.0%} of what is asked for"
            )
