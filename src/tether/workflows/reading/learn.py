"""A reader learnt from crops, or from whole images with boxes, by ``tether adapt``; resumable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder, Source
from tether.core.types import ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.boxes import cut_box
from tether.data.images import resize_and_crop
from tether.data.originals import originals
from tether.evaluate.bootstrap import interval
from tether.evaluate.dense import Measured
from tether.evaluate.reading import ReadingScores, reading_scores
from tether.tasks.read import Charset, DualReader, ReadScenes, ReadWords, SceneReader
from tether.tasks.read.charset import unreadable
from tether.tasks.read.reader import word_spec
from tether.training.loop import StepReport
from tether.workflows.adaptation.boxes import boxes_said
from tether.workflows.adaptation.learnt import HELD_OUT, LearntReport, LearntRun, held_out
from tether.workflows.adaptation.run import named
from tether.workflows.models import Progress, with_total

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
        gain: share of held-out words that scenes set right less that they spoil, with its 95 % interval over words;
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
        boxes: (n, 4) of each in its image, in shares, or None.
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


def captioned(
    source: Source, spec: ImageSpec, *, run: LearntRun, on_progress: Progress | None = None
) -> ImagesWithTexts:
    """Every image with its first caption; one without is a bad row.

    Raises:
        InputError: no image with a caption, or more images than memory shall hold.
    """
    bad, progress = BadRows(source.name, strict=run.strict), with_total(on_progress, source)
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
        _room(len(pixels), spec, source=source)
        if progress is not None:
            progress(len(keys), None)
    if not keys:
        raise InputError(f"{source.name}: {bad.nothing_good()}")
    return ImagesWithTexts(keys, texts, torch.stack(pixels), sizes, bad.count)


def learn_to_read(
    base: DualEncoder,
    title: str,
    source: Source,
    recipe: ReadWords | ReadScenes,
    *,
    run: LearntRun,
    on_progress: Progress | None = None,
) -> tuple[DualReader | SceneReader, LearntReport]:
    """Learn a reader from crops with a word each, or let one go on with whole images."""
    name = str(run.spec["name"])
    deciding: dict[str, Any] = {"base": model_digest(cast(nn.Module, base)), "data": [source.name, source.version]}
    said = boxes_said(source, recipe.columns) if isinstance(recipe, ReadScenes) else []
    with named(name):
        if isinstance(recipe, ReadScenes):
            reader: DualReader | SceneReader = recipe.start(base, device=run.device, seed=run.seed)
            inner = cast(DualReader, reader.reader)
            deciding["reader"] = model_digest(inner)
            scene = base.image_spec.fixed()
            every = _boxed(source, recipe, spec=inner.image_spec, scene=scene, run=run, on_progress=on_progress)
        else:
            every = _crops(source, recipe, spec=word_spec(base), run=run, on_progress=on_progress)
            if recipe.characters is None:
                _check_readable(every, source=source)
            reader = inner = recipe.start(base, every.words, seed=run.seed)
    charset = inner.charset
    hint = "longest=N and characters=ABC say what is read"
    if isinstance(reader, SceneReader):
        every = replace(every, words=[charset.cased(word) for word in every.words])
        hint = f"{cast(ReadScenes, recipe).folder} reads no others; train it anew with characters=ABC or longest=N"
    _check(every, charset, longest=inner.max_length, source=source, hint=hint)
    learnt, held = held_out(every.owners, source=source, seed=run.seed, what="words")
    train, test = every.part(learnt), every.part(held)
    steps = recipe.steps_for(len(learnt))
    begun, tell = time.process_time(), run.on_step
    with run.folder(deciding) as folder:
        settings: dict[str, Any] = {
            "steps": steps,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "seed": run.seed,
            "folder": folder,
            "on_step": None if tell is None else lambda report: tell(cast(StepReport, report), steps),
            "should_stop": run.should_stop,
        }
        if isinstance(reader, SceneReader):
            reader.fit(train.pixels, train.words, **_scenes(reader, train), **settings)
        else:
            reader.fit(train.pixels, train.words, **settings)
        spent = time.process_time() - begun
        measured = _measured(reader, test, known=set(train.words))
        skipped = [f"{every.bad:,} images were skipped, as they are bad or hold no word."] if every.bad else []
        report = run.reported(
            ReaderReport,
            reader,
            use=_use(reader, title),
            base=title,
            digest=deciding["base"],
            data=[
                f"Learnt from {len(learnt):,} words of {source.name}, {len(set(train.words)):,} different; "
                f"{len(held):,} were held out.",
                *said,
            ],
            guess=guess_of(train.words, test.words),
            **measured,
            moved=sum(one.numel() for one in _moving(reader)),
            cpu_seconds=spent,
            remarks=[*skipped, f"It reads {len(charset.characters)} characters: {charset.characters}"],
        )
    return reader, report


def _use(reader: DualReader | SceneReader, title: str) -> str:
    """The command that reads with it."""
    if isinstance(reader, SceneReader):
        return f"tether read IMAGES --regions boxes.csv --head {{folder}} --model {title} --scene --out words.csv"
    return "tether read IMAGES --head {folder} --out words.csv --html words.html"


def _moving(reader: DualReader | SceneReader) -> list[nn.Parameter]:
    """What learnt."""
    if isinstance(reader, SceneReader):
        return [*cast(DualReader, reader.reader).moving(), *reader.fusion.parameters()]
    return reader.moving()


def _scenes(reader: SceneReader, words: WordCrops) -> dict[str, Any]:
    boxes = words.boxes if reader.settings["position"] else None
    return {"scenes": words.scenes, "scene_index": words.index, "boxes": boxes}


def _measured(reader: DualReader | SceneReader, test: WordCrops, *, known: set[str]) -> dict[str, Any]:
    """The measured fields of a report."""
    if not test.words:
        return {"scores": None, "unseen": None}
    crops, gain = None, None
    if isinstance(reader, SceneReader):
        read, alone = reader.read(test.pixels, **_scenes(reader, test)).words, reader.read(test.pixels).words
        crops, gain = reading_scores(alone, test.words), _gain(read, alone, test.words)
    else:
        read = reader.read(test.pixels).words
    new = [row for row, word in enumerate(test.words) if word not in known]
    unseen = reading_scores([read[row] for row in new], [test.words[row] for row in new]) if new else None
    return {"scores": reading_scores(read, test.words), "unseen": unseen, "crops": crops, "gain": gain}


def _check_readable(every: WordCrops, *, source: Source) -> None:
    """Refuse a word whose characters cannot be learnt, by its row."""
    for name, word in zip(every.names, every.words, strict=True):
        if wrong := unreadable(word):
            lines = "; the recipe read_page learns texts of several lines" if wrong == "\n" else ""
            raise InputError(
                f"{source.name}: {name}: {quoted(word)}: expected letters, got {quoted(wrong)} among them{lines}"
            )


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


def _check(every: WordCrops, charset: Charset, *, longest: int, source: Source, hint: str) -> None:
    """Refuse a word that cannot be learnt, by its row."""
    for name, word in zip(every.names, every.words, strict=True):
        try:
            charset.encode([word], longest=longest)
        except InputError as error:
            reason = str(error).removeprefix("word 0, ")
            raise InputError(f"{source.name}: {name}: {reason}; {hint}") from error


def _room(count: int, spec: ImageSpec, *, source: Source) -> None:
    height, width = spec.size
    if count * 3 * height * width > MOST_BYTES:
        most = MOST_BYTES // (3 * height * width)
        raise InputError(f"{source.name}: expected at most {most:,} images of {height} x {width} pixels, got more")


def _crops(
    source: Source, recipe: ReadWords, *, spec: ImageSpec, run: LearntRun, on_progress: Progress | None
) -> WordCrops:
    """Every image as a crop with its first caption as the word."""
    found = captioned(source, spec, run=run, on_progress=on_progress)
    words = [recipe.spelt(text) for text in found.texts]
    return WordCrops(found.keys, found.keys, found.pixels, words, bad=found.bad)


def _boxed(
    source: Source,
    recipe: ReadScenes,
    *,
    spec: ImageSpec,
    scene: ImageSpec,
    run: LearntRun,
    on_progress: Progress | None,
) -> WordCrops:
    """Every box of every image as a crop with its phrase as the word."""
    bad, progress = BadRows(source.name, strict=run.strict), with_total(on_progress, source)
    names, owners, words = list[str](), list[str](), list[str]()
    pixels, scenes, index, boxes = list[Tensor](), list[Tensor](), list[int](), list[np.ndarray]()
    for rows, images in originals(source, bad=bad, workers=run.workers):
        for row, image in zip(rows, images, strict=True):
            try:
                found = recipe.columns.read(row, size=(image.shape[1], image.shape[2]))
            except InputError as error:
                bad.add(row.key, str(error))
                continue
            there = [(box, text.strip()) for box, text in zip(found.boxes, found.phrases, strict=True) if text.strip()]
            for number, (box, text) in enumerate(there, 1):
                names.append(f"{row.key}, word {number}")
                owners.append(row.key)
                words.append(text)
                pixels.append(resize_and_crop(cut_box(image, box.tolist()), spec))
                index.append(len(scenes))
                boxes.append(box)
            if there:
                scenes.append(resize_and_crop(image, scene))
        _room(len(pixels), spec, source=source)
        _room(len(scenes), scene, source=source)
        if progress is not None:
            progress(len(scenes), None)
    if not words:
        raise InputError(f"{source.name}: {bad.nothing_good() if bad.latest else 'no box of an image has a word'}")
    placed = torch.from_numpy(np.stack(boxes)).float().clamp(0, 1)
    return WordCrops(names, owners, torch.stack(pixels), words, torch.stack(scenes), index, placed, bad.count)
