"""A reader of pages by ``tether adapt``: a vocabulary on rendered pages, then a language model; resumable."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.types import ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.images import resize_and_crop
from tether.data.lettering.pages import DrawnPages
from tether.data.originals import originals
from tether.data.sets.scenes import Dice, World, render
from tether.evaluate.reading import reading_scores
from tether.models.vision.vocabulary import VisionVocabulary
from tether.tasks.read import ReadPages, VisionLM, pretrain_vocabulary
from tether.tasks.read.merged_vision import squeezed
from tether.train.loop import StepReport
from tether.workflows.adaptation.learnt import HELD_OUT, LearntReport, LearntRun
from tether.workflows.adaptation.run import named
from tether.workflows.models import Progress, with_total
from tether.workflows.reading.learn import MOST_BYTES, ReaderReport

_SCENE = 64  # pixels of a drawn image without text


@dataclass(frozen=True, kw_only=True)
class PageReaderReport(ReaderReport):
    """What came of learning to read pages; none that is held out counts as seen."""

    gives: ClassVar[str] = "page reader"


@dataclass(frozen=True)
class _Scans:
    """Pages of the data: keys, pixels, texts, and what must be known of them."""

    keys: list[str]
    pixels: UInt8[Tensor, "n 3 h w"]
    texts: list[str]
    remarks: list[str]


def learn_pages(
    base: DualEncoder,
    title: str,
    source: Source,
    recipe: ReadPages,
    *,
    run: LearntRun,
    on_progress: Progress | None = None,
) -> tuple[VisionLM, LearntReport]:
    """Learn a vocabulary on rendered pages and those of the data, then let a language model read beside the model."""
    with named(str(run.spec["name"])):
        net = recipe.network(base, seed=run.seed)
        every = _scans(source, net.image_spec, run=run, on_progress=on_progress)
        words = recipe.words(every.texts, tokens=net.tokens, seed=run.seed)
        starting = copy.deepcopy(words)
        reader = recipe.reader(base, net, words, seed=run.seed).to(base.logit_scale.device)
    held = [row for row, key in enumerate(every.keys) if hash_int(key, seed=run.seed, salt="held out") % HELD_OUT == 0]
    learnt = sorted(set(range(len(every.keys))) - set(held))
    if not learnt:
        raise InputError(f"{source.name}: expected pages to learn from, got {len(every.keys)}, all held out")
    shown, texts = every.pixels[torch.tensor(learnt)], [every.texts[row] for row in learnt]
    deciding: dict[str, Any] = {
        "base": model_digest(cast(nn.Module, base)),
        "data": [source.name, source.version],
        "vocabulary": model_digest(net),
        "language model": model_digest(starting),
    }
    begun, tell = time.process_time(), run.on_step
    fitting = recipe.steps_for(len(learnt))
    with run.folder(deciding) as folder:

        def told(steps: int, before: int, name: str) -> dict[str, Any]:
            """Steps of one stage, counted over both."""
            total = before + steps if name == "reader" else steps + fitting

            def look(report: StepReport) -> None:
                if tell is not None:
                    tell(replace(report, step=report.step + before), total)

            return {
                "steps": steps,
                "batch_size": recipe.batch_size,
                "weight_decay": recipe.weight_decay,
                "longest": recipe.longest,
                "seed": run.seed,
                "folder": None if folder is None else folder / name,
                "on_step": look,
                "should_stop": run.should_stop,
            }

        first = 0 if recipe.vocabulary is not None else recipe.pretrain_steps
        if first:
            pages, negatives = _rendered(recipe, net, shown, texts, seed=run.seed)
            settings = told(first, 0, "vocabulary")
            pretrain_vocabulary(
                net,
                starting.to(base.logit_scale.device),
                pages,
                negatives=negatives,
                words_steps=recipe.words_steps,
                learning_rate=recipe.pretrain_rate,
                **settings,
            )
        reader.fit(shown, texts, learning_rate=recipe.learning_rate, **told(fitting, first, "reader"))
        spent = time.process_time() - begun
        scores = None
        if held:
            read = reader.read(every.pixels[torch.tensor(held)]).words
            scores = reading_scores(read, [every.texts[row] for row in held])
        moving = [*reader.vision.merge.parameters(), *reader.language_model.parameters()]
        report = run.reported(
            PageReaderReport,
            reader,
            use="tether read IMAGES --page --head {folder} --out pages.csv --html pages.html",
            base=title,
            digest=deciding["base"],
            data=[
                f"Learnt from {len(learnt):,} pages of {source.name}; {len(held):,} were held out.",
                f"The vocabulary learnt on {recipe.rendered:,} rendered pages, {recipe.negatives:,} images without "
                "text, and the same pages."
                if first
                else f"The vocabulary is that of {recipe.vocabulary}.",
            ],
            scores=scores,
            unseen=None,
            moved=sum(one.numel() for one in moving) + (sum(one.numel() for one in net.parameters()) if first else 0),
            cpu_seconds=spent,
            remarks=every.remarks,
        )
    return reader, report


def _rendered(
    recipe: ReadPages, net: VisionVocabulary, shown: Tensor, texts: list[str], *, seed: int
) -> tuple[DrawnPages, Tensor | None]:
    """Pages for the vocabulary, those of the data among them, and drawn images without text."""
    made = recipe.pages(texts, size=net.image_size, seed=seed)
    pages = DrawnPages(torch.cat([made.image, shown]), (*made.texts, *texts))
    if not recipe.negatives:
        return pages, None
    dice = Dice(np.random.default_rng(hash_int("negatives", seed=seed, salt="pages")))
    world = World()
    drawn = [render(world.draw(dice), size=_SCENE).pixels for _ in range(recipe.negatives)]
    return pages, torch.stack(
        [resize_and_crop(torch.from_numpy(one).permute(2, 0, 1), net.image_spec) for one in drawn]
    )


def _scans(source: Source, spec: ImageSpec, *, run: LearntRun, on_progress: Progress | None) -> _Scans:
    """Every image as a page with its first caption as the text."""
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
            sizes.append((image.shape[1], image.shape[2]))
            pixels.append(resize_and_crop(image, spec))
        if len(pixels) * 3 * spec.size[0] * spec.size[1] > MOST_BYTES:
            raise InputError(
                f"{source.name}: more pages of {spec.size[0]} pixels a side than {MOST_BYTES:,} bytes hold"
            )
        if progress is not None:
            progress(len(keys), None)
    if not keys:
        raise InputError(f"{source.name}: {bad.nothing_good()}")
    said = squeezed(sizes, keys, spec)
    remarks = [f"{bad.count:,} images were skipped, as they are bad or hold no text."] if bad.count else []
    return _Scans(keys, torch.stack(pixels), texts, [*remarks, *([f"{said}."] if said else [])])
