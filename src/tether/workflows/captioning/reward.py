"""A captioner that goes on by reward, resumable, and what became of its captions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.adapt.recipes import Outcome, ReplayedBatches, Tuning, play
from tether.core.atomic_io import write_json
from tether.core.component import build
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import check_finite
from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.loader import ordered
from tether.evaluate.adaptation import Compared, Interval
from tether.evaluate.adaptation.figures import Better
from tether.evaluate.adaptation.report import FORMAT, JSON_FILE
from tether.evaluate.bootstrap import interval
from tether.evaluate.captions import caption_words, repeated_bigrams
from tether.models.cached import CachedEncoder
from tether.tasks.caption import (
    CAPTION_RECIPES,
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
from tether.tasks.caption.training import rate, training_parts, unlock_
from tether.workflows.adaptation.folder import Existing, check_free, claimed, remove_others
from tether.workflows.adaptation.run import OnStep, named
from tether.workflows.captioning.learn import HELD_OUT, resting
from tether.workflows.models import Data, Model, opened

REWARD_RECIPE = "caption_reward"
BATCH = 32
"""Images that are read at once."""


@dataclass(frozen=True)
class RewardedReport:
    """What came of learning from a reward.

    Attributes:
        recipe: its name.
        settings: those that were given.
        base: what the encoder is called.
        digest: of its weights.
        data: what was learnt from, in sentences.
        own: figures of greedy captions of held-out images before and after; the first is the reward model's score.
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
    own: Sequence[Compared]
    moved: int
    cpu_seconds: float
    remarks: Sequence[str] = ()
    next: Sequence[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report in sentences."""
        if not self.own:
            said = ["No image was held out that says whether the captions became better."]
        else:
            said = [
                f"{one.name}: {one.shown(one.before)} -> {one.shown(one.after)}, {one.shown(one.change, signed=True)}"
                f"{'' if one.better == 'none' else f': {one.verdict}'}."
                for one in self.own
            ]
        cost = f"Cost: {self.cpu_seconds:.1f} s of processor time; {self.moved:,} numbers learnt."
        return [*said, *self.remarks, cost]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = [one.to_dict() for one in self.own]
        return {"format": FORMAT, "gives": "captioner", "verdict": self.lines()[0], **asdict(self), "own": own}

    def save(self, folder: Path) -> None:
        """Write the numbers."""
        write_json(folder / JSON_FILE, self.to_dict())


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
) -> tuple[TextOnlyCaptioner, RewardedReport]:
    """Let a captioner learn from a reward; arguments as for ``tether.adapt``, its settings as ``spec``.

    One image in ten, by a hash of its key, is held out.
    """
    recipe = cast(CaptionByReward, build(dict(spec), CAPTION_RECIPES, where="--recipe", finite=True))
    source = open_source(data, where="DATA")
    if out is not None:
        check_free(Path(out), existing=existing)
    names = [name for name in (model, recipe.judge, recipe.judge2) if name is not None]
    found = [opened(name, device=device, random_weights=random_weights) for name in names]
    for one, _ in found:
        cast(nn.Module, one).eval()
        check_finite(one)
    (base, title), judges = found[0], found[1:] if recipe.judge else found
    with named(REWARD_RECIPE):
        for one, _ in judges:
            check_judge(one, grammar=False)
        if recipe.grammar == "fit":
            check_judge(judges[0][0], grammar=True)
    captioner = TextOnlyCaptioner.load(recipe.captioner, model=base)
    images = _read(source, captioner, [one for one, _ in judges], regions=recipe.regions, strict=strict)
    held = [n for n, key in enumerate(images.keys) if hash_int(key, seed=seed, salt="held out") % HELD_OUT == 0]
    learnt = sorted(set(range(len(images.keys))) - set(held))
    if not learnt:
        raise InputError(f"{source.name}: expected images to learn from, got {len(images.keys)}, all held out")
    test, train = images.part(held), images.part(learnt)
    bare = [key for key, some in zip(train.keys, train.texts, strict=True) if not some]
    if recipe.needs_captions and bare:
        raise InputError(f"{source.name}: {bare[0]}: expected a caption of each image for these settings, got none")
    digests = [model_digest(cast(nn.Module, one)) for one, _ in found]
    deciding = {
        "base": digests[0],
        "judges": digests[1:],
        "captioner": model_digest(captioner.captioner),
        "recipe": dict(spec),
        "data": [source.name, source.version],
        "seed": seed,
    }
    with contextlib.ExitStack() as stack:
        folder = None
        if out is not None:
            folder = stack.enter_context(claimed(Path(out), deciding, existing=existing))
        how: dict[str, Any] = {"folder": folder, "on_step": on_step, "should_stop": should_stop}
        for one, _ in found:
            stack.enter_context(resting(one))
        judge, head, remarks, spent = _grammar(recipe, judges[0][0], train, seed=seed, **how)
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
        before = _captions(captioner, test, recipe, seed=seed)
        moved, seconds = _learn(recipe, captioner, reward, train, seed=seed, **how)
        after = _captions(captioner, test, recipe, seed=seed)
        titles = [name for _, name in judges]
        own = _figures(test, before, after, judges=scorers, titles=titles, cider=cider)
        if recipe.judge is None:
            remarks.append("The captioner's own encoder gave the reward; judge=MODEL names one that knows more.")
        if recipe.judge2 is None:
            remarks.append("The reward model's own score rises by construction; judge2=MODEL measures with another.")
        if not recipe.regions or captioner.without_regions is not None:
            remarks.append(captioner.without_regions or "The image embedding alone is told, without regions.")
        told = "FOLDER" if out is None else str(out)
        report = RewardedReport(
            recipe=REWARD_RECIPE,
            settings={key: value for key, value in spec.items() if key != "name"},
            base=title,
            digest=digests[0],
            data=[f"Learnt from {len(learnt):,} images of {source.name}; {len(held):,} were held out."],
            own=own,
            moved=moved,
            cpu_seconds=spent + seconds,
            remarks=remarks,
            next=[f"tether caption PHOTOS --model {title} --captioner {told} --out captions.csv --html captions.html"],
        )
        if out is not None:
            remove_others(Path(out), model=False, head=False)
            captioner.save(out)
            report.save(Path(out))
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
    recipe: CaptionByReward,
    judge: DualEncoder,
    train: _Images,
    *,
    seed: int,
    folder: Path | None,
    on_step: OnStep | None,
    should_stop: Callable[[], bool],
) -> tuple[DualEncoder, GrammarHead | None, list[str], float]:
    """The judge with a grammar head, or as it is and why; and the processor time."""
    pairs = [(row, text) for row, some in enumerate(train.texts) for text in some]
    if recipe.grammar == "none" or not pairs:
        return judge, None, [f"Grammar was not judged{'' if pairs else ', as the data have no captions'}."], 0.0
    try:
        run = GrammarFit(
            judge,
            train.seen[0],
            [text for _, text in pairs],
            owner=[row for row, _ in pairs],
            prefix=recipe.prefix,
            batch_size=recipe.grammar_batch,
            seed=seed,
        )
    except UnsupportedModelError as error:
        if recipe.grammar == "fit":
            raise
        return judge, None, [f"Grammar was not judged: {error}."], 0.0
    tuning = Tuning(
        step=run.step,
        batches=ReplayedBatches(run.batches),
        steps=recipe.grammar_steps,
        optimizer={"name": "adamw", "lr": recipe.grammar_rate},
        groups=run.groups(weight_decay=0.1),
        modules={"head": run.head},
        finish=Outcome,
    )
    place = None if folder is None else folder / "grammar"
    look = None if on_step is None else lambda report: on_step(report, recipe.grammar_steps)
    played = play(tuning, run.judge, folder=place, seed=seed, on_step=look, should_stop=should_stop)
    cast(nn.Module, run.judge).requires_grad_(False)
    return run.judge, run.head.requires_grad_(False), [], played.cpu_seconds


def _learn(
    recipe: CaptionByReward,
    made: TextOnlyCaptioner,
    reward: ClipReward,
    train: _Images,
    *,
    seed: int,
    folder: Path | None,
    on_step: OnStep | None,
    should_stop: Callable[[], bool],
) -> tuple[int, float]:
    """Numbers that were learnt, and the processor time of it."""
    writing, captioner = Writing(), made.captioner
    regions = train.told.regions
    rows = train.told.image[:, None] if regions is None else torch.cat([train.told.image[:, None], regions], dim=1)

    def memory(some: Tensor, generator: torch.Generator) -> Tensor:
        read = ImageRows(some[:, 0], some[:, 1:] if some.shape[1] > 1 else None)
        drawn = int(torch.randint(2**31, (), generator=generator))
        return made.told(read, writing, keys=[str(row) for row in range(len(some))], seed=drawn)

    trainer = SelfCriticalTrainer(captioner, reward, n_samples=recipe.samples, longest=recipe.longest, seed=seed)
    unlock_(captioner, tune=recipe.tune)
    tuning = Tuning(
        step=trainer.step(train.seen[0], references=train.texts, memory=memory),
        batches=ReplayedBatches(lambda: trainer.batches(rows, batch_size=recipe.batch_size)),
        steps=recipe.steps,
        optimizer={"name": "adamw", "lr": recipe.learning_rate},
        weight_decay=recipe.weight_decay,
        schedule=rate(recipe.steps),
        training=training_parts(captioner, tune=recipe.tune),
        modules={"captioner": captioner},
        finish=Outcome,
    )
    look = None if on_step is None else lambda report: on_step(report, recipe.steps)
    played = play(tuning, made.model, folder=folder, seed=seed, on_step=look, should_stop=should_stop)
    captioner.requires_grad_(True).eval()
    return played.parameters, played.cpu_seconds


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
