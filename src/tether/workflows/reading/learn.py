"""Shared by the recipes that learn a reader: images, words with their crops, the training, the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.types import ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.images import resize_and_crop
from tether.data.in_order import originals
from tether.evaluate.bootstrap import interval
from tether.evaluate.dense import Measured
from tether.evaluate.reading import ReadingScores, reading_scores
from tether.tasks.read import DualReader, SceneReader
from tether.tasks.read.page_recipe import ReadRecipe
from tether.training.loop import StepReport
from tether.workflows.adaptation.learnt import HELD_OUT, LearntReport, LearntRun, held_out
from tether.workflows.models import with_total

MOST_BYTES = 1 << 33
"""Of the pixels that are held to learn from."""
FEW = 200
"""Held-out texts below which a report says that they tell little."""


@dataclass(frozen=True, kw_only=True)
class ReaderReport(LearntReport):
    """What came of learning to read.

    Attributes:
        scores: on words that were held out; None where there are none.
        unseen: on those among them that no crop shows that was learnt from; None where there are none.
        crops: the same held-out words read without their scenes; None for a reader of crops.
        gain: share of held-out words that scenes set right, minus the share that they spoil, with a 95 % interval;
            None for a reader of crops.
        guess: share of held-out words that are the commonest one learnt from, which needs no image; None without.
    """

    gives: ClassVar[str] = "reader"
    unit: ClassVar[str] = "words"
    untrained: ClassVar[str] = "tether read CROPS --with rapidocr --compare --out rapidocr.csv"
    scores: ReadingScores | None
    unseen: ReadingScores | None
    crops: ReadingScores | None = None
    gain: Measured | None = None
    guess: float | None = None

    @property
    def reads(self) -> bool:
        """Whether held-out data show that more is read right than one guess would have."""
        return self.scores is not None and self.scores.right.low > (self.guess or 0.0)

    @property
    def helps(self) -> bool:
        """Whether held-out data show that scenes help; true of a reader of crops, which has none."""
        return self.gain is None or self.gain.interval[0] > 0

    def said(self) -> list[str]:
        """See LearntReport."""
        if self.scores is None:
            return ["No word was held out that says how well it reads."]
        guess = "" if self.guess is None else f" (the commonest one of those learnt from is {self.guess:.1%} of them)"
        found = [f"Held out: {line}." for line in self.scores.lines()]
        if not self.reads:
            found[0] = f"NOT shown to read: {found[0][:1].lower()}{found[0][1:-1]}{guess}."
        if self.gain is not None:
            found.append(
                f"{'Scenes help' if self.helps else 'Scenes are NOT shown to help'}: {self.gain} of the words more are "
                "read right with them."
            )
        if self.crops is not None:
            found += [f"The same without their scenes: {line}." for line in self.crops.lines()]
        if self.unseen is not None:
            found += [f"Words that it never saw: {line}." for line in self.unseen.lines()]
        return found

    def next_steps(self, use: str) -> list[str]:
        """See LearntReport; a reader that is not shown to read is not the first thing to use."""
        told = list[str]()
        if self.scores is None or self.scores.right.n < FEW:
            held = 0 if self.scores is None else self.scores.right.n
            told.append(f"{held} held-out {self.unit} tell little: bring more data, one in {HELD_OUT} is held out")
        if not self.reads:
            told.append(f"more {self.unit} or more steps; letters in common fonts need no training: {self.untrained}")
        elif not self.helps:
            told.append("read without --scene, unless scenes help on words that matter to you")
        else:
            told.append(f"compare it with what needs no training: {self.untrained}")
        return [*told, use] if not (self.reads and self.helps) else [use, *told]


@dataclass(frozen=True)
class WordCrops:
    """Words with their crops, as they are learnt from.

    Attributes:
        names: of them, for messages.
        owners: key of the image of each; all words of an image are held out or none.
        pixels: (n, 3, h, w) crops.
        words: that stand in them.
        scenes: (s, 3, h, w) whole images, or None.
        index: number of each crop's image.
        boxes: (n, 4) of each in its image, in shares; None where places are not looked at.
        bad: images that were skipped.
    """

    names: Sequence[str]
    owners: Sequence[str]
    pixels: UInt8[Tensor, "n 3 h w"]
    words: Sequence[str]
    scenes: UInt8[Tensor, "s 3 a b"] | None = None
    index: Sequence[int] = ()
    boxes: Float[Tensor, "n 4"] | None = None
    bad: int = 0

    def part(self, rows: Sequence[int]) -> WordCrops:
        """Some of them; the scenes stay."""
        names, owners, words = ([all_[row] for row in rows] for all_ in (self.names, self.owners, self.words))
        at = torch.tensor(list(rows), dtype=torch.int64)
        index = [self.index[row] for row in rows] if self.index else ()
        boxes = None if self.boxes is None else self.boxes[at]
        return WordCrops(names, owners, self.pixels[at], words, self.scenes, index, boxes)

    def around(self) -> dict[str, Any]:
        """What a reader of scenes is told besides the crops; nothing where there are no scenes."""
        return {} if self.scenes is None else {"scenes": self.scenes, "scene_index": self.index, "boxes": self.boxes}


@dataclass(frozen=True)
class ImagesWithTexts:
    """Images that have a caption, as they are learnt from.

    Attributes:
        keys: of them.
        texts: the first caption of each.
        pixels: (n, 3, h, w) as large as they are read.
        sizes: height and width before.
        bad: images that were skipped.
    """

    keys: Sequence[str]
    texts: Sequence[str]
    pixels: UInt8[Tensor, "n 3 h w"]
    sizes: Sequence[tuple[int, int]]
    bad: int


def captioned(source: Source, spec: ImageSpec, *, run: LearntRun) -> ImagesWithTexts:
    """Every image with its first caption; one without is a bad row.

    Raises:
        InputError: no image with a caption, or more images than memory shall hold.
    """
    bad, progress = BadRows(source.name, strict=run.strict), with_total(run.on_progress, source)
    keys, texts, pixels, sizes = list[str](), list[str](), list[Tensor](), list[tuple[int, int]]()
    for rows, images in originals(source, bad=bad, workers=run.workers):
        for row, image in zip(rows, images, strict=True):
            text = next((text.strip() for text in row.texts if text.strip()), None)
            if text is None:
                bad.add(row.key, "no caption")
                continue
            keys.append(row.key)
            texts.append(text)
            pixels.append(resize_and_crop(image, spec))
            sizes.append((image.shape[1], image.shape[2]))
        check_room(len(pixels), spec, source=source)
        if progress is not None:
            progress(len(keys), None)
    if not keys:
        raise InputError(f"{source.name}: {bad.nothing_good()}")
    return ImagesWithTexts(keys, texts, torch.stack(pixels), sizes, bad.count)


def taught(
    reader: DualReader | SceneReader,
    every: WordCrops,
    recipe: ReadRecipe,
    *,
    inner: DualReader,
    hint: str,
    base: DualEncoder,
    title: str,
    source: Source,
    use: str,
    run: LearntRun,
    deciding: Mapping[str, Any],
    said: Sequence[str],
) -> LearntReport:
    """Let a reader learn words, in place, and measure it on those that are held out.

    Args:
        reader: before it has learnt.
        every: the words.
        recipe: says how long and how fast.
        inner: the reader of crops, which is the reader or in it.
        hint: what to do about a word that cannot be learnt.
        base: the model that is adapted.
        title: what it is called.
        source: of the words, for messages.
        use: the command that uses the reader, with ``{folder}`` where its folder stands.
        run: how it is asked for.
        deciding: what else than base and data it begins with, by which an interrupted run is known.
        said: of the data, in sentences.

    Raises:
        InputError: a word that cannot be learnt, by its row.
    """
    for name, word in zip(every.names, every.words, strict=True):
        try:
            inner.charset.encode([word], longest=inner.max_length)
        except InputError as error:
            reason = str(error).removeprefix("word 0, ")
            raise InputError(f"{source.name}: {name}: {reason}; {hint}") from error
    characters = inner.charset.characters
    learnt, held = held_out(every.owners, source=source, seed=run.seed, what="words")
    train, test = every.part(learnt), every.part(held)
    steps, digest = recipe.steps_for(len(learnt)), model_digest(cast(nn.Module, base))
    begun, tell = time.process_time(), run.on_step
    with run.folder({"base": digest, "data": [source.name, source.version], **deciding}) as folder:
        reader.fit(
            train.pixels,
            train.words,
            **train.around(),
            steps=steps,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            seed=run.seed,
            folder=folder,
            on_step=None if tell is None else lambda report: tell(cast(StepReport, report), steps),
            should_stop=run.should_stop,
        )
        spent = time.process_time() - begun
        skipped = [f"{every.bad:,} images were skipped, as they are bad or hold no word."] if every.bad else []
        return run.reported(
            ReaderReport,
            reader,
            use=use,
            base=title,
            digest=digest,
            data=[
                f"Learnt from {len(learnt):,} words of {source.name}, {len(set(train.words)):,} different; "
                f"{len(held):,} were held out.",
                *said,
            ],
            guess=guess_of(train.words, test.words),
            **_measured(reader, test, known=set(train.words)),
            moved=sum(one.numel() for one in reader.moving()),
            cpu_seconds=spent,
            remarks=[*skipped, f"It reads {len(characters)} characters: {characters}"],
        )


def _measured(reader: DualReader | SceneReader, test: WordCrops, *, known: set[str]) -> dict[str, Any]:
    """The measured fields of a report."""
    if not test.words:
        return {"scores": None, "unseen": None}
    read, crops, gain = reader.read(test.pixels, **test.around()).words, None, None
    if test.scenes is not None:
        alone = reader.read(test.pixels).words
        crops, gain = reading_scores(alone, test.words), _gain(read, alone, test.words)
    new = [row for row, word in enumerate(test.words) if word not in known]
    unseen = reading_scores([read[row] for row in new], [test.words[row] for row in new]) if new else None
    return {"scores": reading_scores(read, test.words), "unseen": unseen, "crops": crops, "gain": gain}


def _gain(read: Sequence[str], alone: Sequence[str], true: Sequence[str]) -> Measured:
    """Share of texts that one reading has right less the other's, in pairs."""
    triples = zip(read, alone, true, strict=True)
    change = np.array([[float(one == text) - float(other == text)] for one, other, text in triples])
    low, high = interval(change, counts=np.ones_like(change))[0]
    return Measured(float(change.mean()), (float(low), float(high)))


def guess_of(learnt: Sequence[str], held: Sequence[str]) -> float | None:
    """Share of held-out texts that are the commonest one learnt from; None without either."""
    if not learnt or not held:
        return None
    commonest = Counter(learnt).most_common(1)[0][0]
    return sum(text == commonest for text in held) / len(held)


def check_room(count: int, spec: ImageSpec, *, source: Source) -> None:
    """Refuse more images than memory shall hold."""
    height, width = spec.size
    if count * 3 * height * width > MOST_BYTES:
        most = MOST_BYTES // (3 * height * width)
        raise InputError(f"{source.name}: expected at most {most:,} images of {height} x {width} pixels, got more")
