"""A captioner that goes on by reward, resumable, and what became of its captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import check_finite
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered
from tether.evaluate.adaptation import Compared, Interval
from tether.evaluate.adaptation.figures import Better
from tether.evaluate.bootstrap import interval
from tether.evaluate.captions import caption_words, repeated_bigrams
from tether.models.composed.cached import CachedEncoder
from tether.tasks.caption import (
    CaptionByReward,
    CiderReward,
    ClipReward,
    ImageRows,
    SelfCriticalTrainer,
    TextOnlyCaptioner,
    Writing,
    read_images,
)
from tether.tasks.caption.reward_grammar import GrammarFit, GrammarHead, check_judge
from tether.tasks.caption.training import teach_
from tether.training.tuning import Played
from tether.workflows.adaptation.learnt import LearntReport, LearntRun, held_out
from tether.workflows.adaptation.run import named
from tether.workflows.captioning.run import WritingReport, reported
from tether.workflows.models import opened

BATCH = 32
"""Images that are read at once."""


@dataclass(frozen=True, kw_only=True)
class RewardedReport(WritingReport):
    """What came of learning from a reward.

    Attributes:
        own: figures of greedy captions of held-out images before and after; the first is the reward model's score.
    """

    own: Sequence[Compared]

    def said(self) -> list[str]:
        """See LearntReport."""
        if not self.own:
            return ["No image was held out that says whether the captions became better."]
        return [
            f"{one.name}: {one.shown(one.before)} -> {one.shown(one.after)}, {one.shown(one.change, signed=True)}"
            f"{'' if one.better == 'none' else f': {one.verdict}'}."
            for one in self.own
        ]

    def to_dict(self) -> dict[str, Any]:
        """See LearntReport."""
        return {**super().to_dict(), "own": [one.to_dict() for one in self.own]}


@dataclass(frozen=True)
class _Images:
    """Images as captioner and judges have them.

    Attributes:
        keys: of them.
        told: what the captioner is told.
        seen: embeddings by each judge.
        texts: captions of each, if any.
    """

    keys: Sequence[str]
    told: ImageRows
    seen: Sequence[Float[Tensor, "n d"]]
    texts: Sequence[tuple[str, ...]]

    def part(self, rows: Sequence[int]) -> _Images:
        at = torch.tensor(list(rows), dtype=torch.int64)
        regions = None if self.told.regions is None else self.told.regions[at]
        keys, texts = [self.keys[row] for row in rows], [self.texts[row] for row in rows]
        return _Images(keys, ImageRows(self.told.image[at], regions), [one[at] for one in self.seen], texts)


def reward_captions(
    base: DualEncoder, title: str, source: Source, recipe: CaptionByReward, *, run: LearntRun
) -> tuple[TextOnlyCaptioner, LearntReport]:
    """Let a captioner learn from a reward on a source of images; one in ten, by a hash of its key, is held out."""
    names = [name for name in (recipe.judge, recipe.judge2) if name is not None]
    opened_too = [opened(name, device=run.device, random_weights=run.random_weights) for name in names]
    for one, _ in opened_too:
        cast(nn.Module, one).eval()
        check_finite(one)
    found = [(base, title), *opened_too]
    judges = opened_too if recipe.judge else found
    with named(str(run.spec["name"])):
        for one, _ in judges:
            check_judge(one, grammar=False)
        if recipe.grammar == "fit":
            check_judge(judges[0][0], grammar=True)
    captioner = TextOnlyCaptioner.load(recipe.captioner, model=base)
    images = _read(source, captioner, [one for one, _ in judges], regions=recipe.regions, strict=run.strict)
    learnt, held = held_out(images.keys, source=source, seed=run.seed, what="images")
    test, train = images.part(held), images.part(learnt)
    bare = [key for key, some in zip(train.keys, train.texts, strict=True) if not some]
    if recipe.needs_captions and bare:
        raise InputError(f"{source.name}: {bare[0]}: expected a caption of each image for these settings, got none")
    digests = [model_digest(cast(nn.Module, one)) for one, _ in found]
    deciding = {
        "base": digests[0],
        "judges": digests[1:],
        "captioner": model_digest(captioner.captioner),
        "data": [source.name, source.version],
    }
    with run.folder(deciding) as folder:
        judge, head, remarks, spent = _grammar(recipe, judges[0][0], train, run=run, folder=folder)
        known = all(train.texts)
        cider = CiderReward(train.texts, words=caption_words) if known else None
        reward = ClipReward(
            judge,
            grammar=head,
            weight=recipe.weight,
            score=recipe.score,
            prefix=recipe.prefix,
            cider=cider if recipe.cider else None,
            cider_weight=recipe.cider,
        )
        scorers = [reward, *(ClipReward(one, prefix=recipe.prefix) for one, _ in judges[1:])]
        before = _captions(captioner, test, recipe, seed=run.seed)
        played = _learn(recipe, captioner, reward, train, run=run, folder=folder)
        after = _captions(captioner, test, recipe, seed=run.seed)
        titles = [name for _, name in judges]
        own = _figures(test, before, after, judges=scorers, titles=titles, cider=cider)
        if recipe.judge is None:
            remarks.append("The captioner's own encoder gave the reward; judge=MODEL names one that knows more.")
        if recipe.judge2 is None:
            remarks.append("The reward model's own score rises by construction; judge2=MODEL measures with another.")
        if recipe.regions and captioner.without_regions is not None:
            remarks.append(captioner.without_regions)
        report = reported(
            run,
            RewardedReport,
            captioner,
            base=title,
            digest=digests[0],
            data=[f"Learnt from {len(learnt):,} images of {source.name}; {len(held):,} were held out."],
            own=own,
            moved=played.parameters,
            cpu_seconds=spent + played.cpu_seconds,
            remarks=remarks,
        )
    return captioner, report


def _read(
    source: Source, captioner: TextOnlyCaptioner, judges: Sequence[DualEncoder], *, regions: int, strict: bool
) -> _Images:
    """Images in order; those that one reader cannot take are left out of all."""
    bad = BadRows(source.name, strict=strict)
    k = 0 if captioner.without_regions is not None else regions
    rows: list[Row] = []
    parts: list[ImageRows] = []
    for some, pixels in ordered(source, image_spec=captioner.model.image_spec.fixed(), batch_size=BATCH, on_bad=bad):
        read = read_images(captioner.model, pixels, k=k)
        parts.append(ImageRows(read.image.cpu(), None if read.regions is None else read.regions.cpu()))
        rows += some
    if not rows:
        raise InputError(f"{source.name}: {bad.nothing_good()}")
    seen: list[Tensor] = []
    for judge in judges:
        pairs = CachedEncoder(judge).rows_of(source, batch_size=BATCH, on_bad=BadRows(source.name))
        by_key = {row.key: vector for some, image in pairs for row, vector in zip(some, image, strict=True)}
        nothing = torch.full((judge.dim,), torch.nan)
        seen.append(torch.stack([by_key.get(row.key, nothing) for row in rows]))
    shown = [one.regions for one in parts if one.regions is not None]
    told = ImageRows(torch.cat([one.image for one in parts]), torch.cat(shown) if shown else None)
    texts = [tuple(text.strip() for text in row.texts if text.strip()) for row in rows]
    good = torch.stack([one.isfinite().all(1) for one in seen]).all(0)
    return _Images([row.key for row in rows], told, seen, texts).part(good.nonzero()[:, 0].tolist())


def _grammar(
    recipe: CaptionByReward, judge: DualEncoder, train: _Images, *, run: LearntRun, folder: Path | None
) -> tuple[DualEncoder, GrammarHead | None, list[str], float]:
    """The judge with a grammar head, or as it is and why; and the processor time."""
    pairs = [(row, text) for row, some in enumerate(train.texts) for text in some]
    if recipe.grammar == "none" or not pairs:
        return judge, None, [f"Grammar was not judged{'' if pairs else ', as the data have no captions'}."], 0.0
    try:
        fit = GrammarFit(
            judge,
            train.seen[0],
            [text for _, text in pairs],
            owner=[row for row, _ in pairs],
            prefix=recipe.prefix,
            batch_size=recipe.grammar_batch,
            seed=run.seed,
        )
    except UnsupportedModelError as error:
        if recipe.grammar == "fit":
            raise
        return judge, None, [f"Grammar was not judged: {error}."], 0.0
    tuning = fit.tuning(steps=recipe.grammar_steps, learning_rate=recipe.grammar_rate)
    place = None if folder is None else folder / "grammar"
    played = run.play(tuning, cast(nn.Module, fit.judge), folder=place)
    return fit.judge, fit.head, [], played.cpu_seconds


def _learn(
    recipe: CaptionByReward,
    made: TextOnlyCaptioner,
    reward: ClipReward,
    train: _Images,
    *,
    run: LearntRun,
    folder: Path | None,
) -> Played[None]:
    writing, regions = Writing(), train.told.regions
    rows = train.told.image[:, None] if regions is None else torch.cat([train.told.image[:, None], regions], dim=1)

    def memory(some: Tensor, generator: torch.Generator) -> Tensor:
        read = ImageRows(some[:, 0], some[:, 1:] if some.shape[1] > 1 else None)
        drawn = int(torch.randint(2**31, (), generator=generator))
        return made.told(read, writing, keys=[str(row) for row in range(len(some))], seed=drawn)

    trainer = SelfCriticalTrainer(
        made.captioner, reward, n_samples=recipe.samples, longest=recipe.longest, seed=run.seed
    )
    return teach_(
        made.captioner,
        trainer.step(train.seen[0], references=train.texts, memory=memory),
        partial(trainer.batches, rows, batch_size=recipe.batch_size),
        tune=recipe.tune,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        play=partial(run.play, folder=folder),
    )


def _captions(captioner: TextOnlyCaptioner, test: _Images, recipe: CaptionByReward, *, seed: int) -> list[str]:
    """Greedy captions of the held-out images."""
    found: list[str] = []
    for start in range(0, len(test.keys), BATCH):
        some = test.part(range(start, min(start + BATCH, len(test.keys))))
        made = captioner.generate(some.told, keys=some.keys, seed=seed, how="greedy", longest=recipe.longest)
        found += [one.caption for one in made]
    return found


def _figures(
    test: _Images,
    before: Sequence[str],
    after: Sequence[str],
    *,
    judges: Sequence[ClipReward],
    titles: Sequence[str],
    cider: CiderReward | None,
) -> list[Compared]:
    """Each figure of the captions before and after; the first judge gives the reward."""
    if not before:
        return []
    both = (before, after)
    found = []
    for number, (judge, rows, title) in enumerate(zip(judges, test.seen, titles, strict=True)):
        role = f"second judge, {title}" if number else f"reward model, {title}"
        found.append(_means(f"CLIP-S by the {role}", *(judge.scores(rows, one).numpy() for one in both)))
    repeats = [np.array([repeated_bigrams([one]) for one in some]) for some in both]
    found.append(_means("captions with a repeated bigram", *repeats, better="lower", unit="share"))
    lengths = [np.array([float(len(caption_words(one))) for one in some]) for some in both]
    found.append(_means("words of a caption", *lengths, better="none"))
    if judges[0].grammar is not None:
        formed = [judges[0].well_formed(one).numpy() for one in both]
        found.append(_means("probability of being well formed, by the reward model", *formed, unit="share"))
    if cider is not None and all(test.texts):
        found.append(_means("CIDEr", *(cider(one, test.texts) for one in both)))
    return found


def _means(
    name: str, before: np.ndarray, after: np.ndarray, *, better: Better = "higher", unit: Any = "number"
) -> Compared:
    """Means with a bootstrap over images."""
    columns = np.stack([before, after, after - before], axis=1).astype(np.float64)
    ends = interval(columns, counts=np.ones_like(columns))
    first, last, change = (
        Interval(float(column.mean()), float(low), float(high))
        for column, (low, high) in zip(columns.T, ends, strict=True)
    )
    return Compared(name, first, last, change, len(before), better=better, unit=unit)
