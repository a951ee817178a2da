"""A captioner learnt from texts by ``tether adapt``, resumable like every other tuning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.data.bad_rows import BadRows
from tether.data.shuffle import until_broken
from tether.tasks.caption.recipe import CaptionFromTexts
from tether.tasks.caption.text_only import TextOnlyCaptioner
from tether.tasks.caption.training import CaptionStep, caption_batches, teach_
from tether.workflows.adaptation.learnt import LearntReport, LearntRun, held_out
from tether.workflows.adaptation.run import named
from tether.workflows.captioning.run import WritingReport, reported

LEAST_GAIN = 0.01
"""Share of the surprise by which a text's own embedding must lessen it, for a captioner to be said to listen."""


@dataclass(frozen=True, kw_only=True)
class CaptionerReport(WritingReport):
    """What came of learning from texts.

    Attributes:
        held_out: texts that were held out.
        own: nats a token of these, each told of itself; None where there are fewer than two.
        other: the same, each told of another.
    """

    held_out: int
    own: float | None
    other: float | None

    @property
    def heard(self) -> bool | None:
        """Whether it tells held-out texts back; None where that is not known."""
        return None if self.own is None or self.other is None else self.own < (1 - LEAST_GAIN) * self.other

    def next_steps(self, use: str) -> list[str]:
        """See LearntReport."""
        if self.heard is not False:
            return [use]
        instead = f"tether caption PHOTOS --model {self.base} --texts TEXTS --out captions.csv"
        return [
            f"give it more texts or steps (steps=N), for it does not listen yet; or {instead} takes the nearest text"
        ]

    def said(self) -> list[str]:
        """See LearntReport."""
        if self.own is None or self.other is None:
            first = "Too few texts were held out to say whether it tells them back: expected two."
        else:
            listens = "It tells held-out texts back" if self.heard else "It does NOT tell held-out texts back"
            first = (
                f"{listens}: {self.own:.2f} nats a token of {self.held_out} texts that are told of themselves, "
                f"{self.other:.2f} of texts told of another."
            )
        return [first, "The encoder stays as it is; whether images pass for texts shows only on images."]


def learn_captions(
    base: DualEncoder, title: str, source: Source, recipe: CaptionFromTexts, *, run: LearntRun
) -> tuple[TextOnlyCaptioner, LearntReport]:
    """Learn a captioner from the texts of a source; images that stand beside them are not looked at."""
    texts, held = _texts(source, seed=run.seed, strict=run.strict)
    digest = model_digest(cast(nn.Module, base))
    with named(str(run.spec["name"])):
        captioner = recipe.start(base, texts, seed=run.seed)
    words = model_digest(captioner.captioner.language_model)
    with run.folder({"base": digest, "language_model": words, "data": [source.name, source.version]}) as folder:
        rows, owner = captioner.text_rows(texts), torch.arange(len(texts))
        tokens = captioner.captioner.language_model.tokens(texts, longest=recipe.longest)
        played = teach_(
            captioner.captioner,
            CaptionStep(captioner.captioner, memory=captioner.memory_of, seed=run.seed),
            partial(caption_batches, rows, tokens, owner=owner, batch_size=recipe.batch_size, seed=run.seed),
            tune=recipe.tune,
            steps=recipe.steps_for(len(texts)),
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            play=partial(run.play, folder=folder),
        )
        own = captioner.surprise(held, seed=run.seed, longest=recipe.longest) if len(held) > 1 else (None, None)
        report = reported(
            run,
            CaptionerReport,
            captioner,
            base=title,
            digest=digest,
            data=[f"Learnt from {len(texts):,} texts of {source.name}."],
            held_out=len(held),
            own=own[0],
            other=own[1],
            moved=played.parameters,
            cpu_seconds=played.cpu_seconds,
            remarks=[] if captioner.without_regions is None else [captioner.without_regions],
        )
    return captioner, report


def _texts(source: Source, *, seed: int, strict: bool) -> tuple[list[str], list[str]]:
    """Different texts to learn from, and those that are held out."""
    bad = BadRows(source.name, strict=strict)
    found: dict[str, None] = {}
    for block in source.blocks():
        for row in until_broken(source, block, bad=bad):
            if not row.bad:
                found.update((text.strip(), None) for text in row.texts if text.strip())
    texts = list(found)
    learnt, held = ([texts[row] for row in rows] for rows in held_out(texts, source=source, seed=seed, what="texts"))
    return learnt, held
