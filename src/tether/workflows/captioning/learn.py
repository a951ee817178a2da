"""A captioner learnt from texts by ``tether adapt``, resumable like every other tuning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tether.adapt.recipes import Outcome, ReplayedBatches, Tuning, play
from tether.core.atomic_io import write_json
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.geometry import check_finite
from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.data.bad_rows import BadRows
from tether.data.shuffle import until_broken
from tether.evaluate.adaptation.report import FORMAT, JSON_FILE
from tether.tasks.caption.recipe import CAPTION_RECIPES, CaptionFromTexts
from tether.tasks.caption.text_only import TextOnlyCaptioner
from tether.tasks.caption.training import CaptionStep, caption_batches, rate, training_parts, unlock_
from tether.train.loop import StepReport
from tether.workflows.adaptation.folder import Existing, check_free, claimed, remove_others
from tether.workflows.adaptation.run import OnStep, named
from tether.workflows.adaptation.texts import open_texts
from tether.workflows.models import Data, Model, opened

HELD_OUT = 10
"""One text in so many is held out, by a hash of its words."""
LEAST_GAIN = 0.01
"""Share of the surprise by which a text's own embedding must lessen it, for a captioner to be said to listen."""


@dataclass(frozen=True)
class CaptionerReport:
    """What came of learning from texts.

    Attributes:
        recipe: its name.
        settings: those that were given.
        base: what the encoder is called.
        digest: of its weights.
        data: what was learnt from, in sentences.
        held_out: texts that were held out.
        own: nats a token of these, each told of itself; NaN where there are fewer than two.
        other: the same, each told of another.
        moved: numbers that were learnt.
        cpu_seconds: of processor time.
        remarks: what a reader must know.
        next: what to do next.
    """

    recipe: str
    settings: Mapping[str, Any]
    base: str
    digest: str
    data: Sequence[str]
    held_out: int
    own: float | None
    other: float | None
    moved: int
    cpu_seconds: float
    remarks: Sequence[str] = ()
    next: Sequence[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report in sentences."""
        if self.own is None or self.other is None:
            first = "Too few texts were held out to say whether it tells them back: expected two."
        else:
            heard = self.own < (1 - LEAST_GAIN) * self.other
            listens = "It tells held-out texts back" if heard else "It does NOT tell held-out texts back"
            first = (
                f"{listens}: {self.own:.2f} nats a token of {self.held_out} texts that are told of themselves, "
                f"{self.other:.2f} of texts told of another."
            )
        cost = f"Cost: {self.cpu_seconds:.1f} s of processor time; {self.moved:,} numbers learnt."
        return [
            first,
            "The encoder stays as it is; whether images pass for texts shows only on images.",
            *self.remarks,
            cost,
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, "gives": "captioner", "verdict": self.lines()[0], **asdict(self)}

    def save(self, folder: Path) -> None:
        """Write the numbers."""
        write_json(folder / JSON_FILE, self.to_dict())


def learn_captions(
    model: Model,
    data: Data,
    *,
    spec: Mapping[str, Any],
    seed: int = 0,
    out: str | Path | None = None,
    existing: Existing = "refuse",
    strict: bool = False,
    random_weights: bool = False,
    device: str = "auto",
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TextOnlyCaptioner, CaptionerReport]:
    """Learn a captioner; arguments as for ``tether.adapt``, with the recipe's name and settings as ``spec``.

    Images that stand beside the texts are not looked at.
    """
    name = str(spec["name"])
    recipe = cast(CaptionFromTexts, build(dict(spec), CAPTION_RECIPES, where="--recipe", finite=True))
    source = open_texts(data, where="DATA")
    if out is not None:
        check_free(Path(out), existing=existing)
    base, title = opened(model, device=device, random_weights=random_weights)
    cast(nn.Module, base).eval()
    check_finite(base)
    texts, held = _texts(source, seed=seed, strict=strict)
    digest = model_digest(cast(nn.Module, base))
    with named(name):
        captioner = recipe.start(base, texts, seed=seed)
    words = model_digest(captioner.captioner.language_model)
    data_of = [source.name, source.version]
    deciding = {"base": digest, "recipe": dict(spec), "language_model": words, "data": data_of, "seed": seed}
    with contextlib.ExitStack() as stack:
        unfinished = None
        if out is not None:
            unfinished = stack.enter_context(claimed(Path(out), deciding, existing=existing))
        moved, seconds = _learn(
            recipe, captioner, texts, seed=seed, folder=unfinished, on_step=on_step, should_stop=should_stop
        )
        own, other = captioner.surprise(held, seed=seed, longest=recipe.longest) if len(held) > 1 else (None, None)
        folder = "FOLDER" if out is None else str(out)
        report = CaptionerReport(
            recipe=name,
            settings={key: value for key, value in spec.items() if key != "name"},
            base=title,
            digest=digest,
            data=[f"Learnt from {len(texts):,} texts of {source.name}."],
            held_out=len(held),
            own=own,
            other=other,
            moved=moved,
            cpu_seconds=seconds,
            remarks=[] if captioner.without_regions is None else [captioner.without_regions],
            next=[
                f"tether caption PHOTOS --model {title} --captioner {folder} --out captions.csv --html captions.html"
            ],
        )
        if out is not None:
            remove_others(Path(out), model=False, head=False)
            captioner.save(out)
            report.save(Path(out))
    return captioner, report


def _learn(
    recipe: CaptionFromTexts,
    made: TextOnlyCaptioner,
    texts: Sequence[str],
    *,
    seed: int,
    folder: Path | None,
    on_step: OnStep | None,
    should_stop: Callable[[], bool],
) -> tuple[int, float]:
    """Numbers that were learnt, and the processor time of it."""
    rows, captioner, steps = made.text_rows(texts), made.captioner, recipe.steps_for(len(texts))
    tokens = captioner.language_model.tokens(texts, longest=recipe.longest)
    owner = torch.arange(len(texts))

    def batches() -> Any:
        return caption_batches(rows, tokens, owner=owner, batch_size=recipe.batch_size, seed=seed)

    def look(report: StepReport) -> None:
        if on_step is not None:
            on_step(report, steps)

    with resting(made.model):
        unlock_(captioner, tune=recipe.tune)
        tuning = Tuning(
            step=CaptionStep(captioner, memory=made.memory_of, seed=seed),
            batches=ReplayedBatches(batches),
            steps=steps,
            optimizer={"name": "adamw", "lr": recipe.learning_rate},
            weight_decay=recipe.weight_decay,
            schedule=rate(steps),
            training=training_parts(captioner, tune=recipe.tune),
            modules={"captioner": captioner},
            finish=Outcome,
        )
        played = play(tuning, made.model, folder=folder, seed=seed, on_step=look, should_stop=should_stop)
    captioner.requires_grad_(True).eval()
    return played.parameters, played.cpu_seconds


@contextlib.contextmanager
def resting(model: DualEncoder) -> Iterator[None]:
    """The encoder's weights without gradient."""
    was = [(parameter, parameter.requires_grad) for parameter in cast(nn.Module, model).parameters()]
    try:
        cast(nn.Module, model).requires_grad_(False)
        yield
    finally:
        for parameter, value in was:
            parameter.requires_grad_(value)


def _texts(source: Source, *, seed: int, strict: bool) -> tuple[list[str], list[str]]:
    """Different texts to learn from, and those that are held out."""
    bad = BadRows(source.name, strict=strict)
    found: dict[str, None] = {}
    for block in source.blocks():
        for row in until_broken(source, block, bad=bad):
            if not row.bad:
                found.update((text.strip(), None) for text in row.texts if text.strip())
    parts: tuple[list[str], list[str]] = ([], [])
    for text in found:
        parts[hash_int(text, seed=seed, salt="held out") % HELD_OUT == 0].append(text)
    if not parts[0]:
        raise InputError(f"{source.name}: expected texts to learn from, got {len(found)}")
    return parts
