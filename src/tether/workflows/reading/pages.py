"""A reader of pages by ``tether adapt``: a vocabulary on rendered pages, then a language model; resumable."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.data.images import resize_and_crop
from tether.data.lettering.pages import DrawnPages
from tether.data.sets.scenes import Dice, World, render
from tether.evaluate.reading import reading_scores
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.tasks.read import ReadPages, VisionLM, pretrain_vocabulary
from tether.tasks.read.merged_vision import squeezed
from tether.training.loop import StepReport
from tether.workflows.adaptation.learnt import LearntReport, LearntRun, held_out
from tether.workflows.adaptation.run import named
from tether.workflows.reading.learn import ReaderReport, captioned, guess_of

_SCENE = 64  # pixels of a drawn image without text


@dataclass(frozen=True, kw_only=True)
class PageReaderReport(ReaderReport):
    """What came of learning to read pages; none that is held out counts as seen."""

    gives: ClassVar[str] = "page reader"
    unit: ClassVar[str] = "pages"
    untrained: ClassVar[str] = "tether read PAGES --page --with rapidocr --compare --out rapidocr.csv"


def learn_pages(
    base: DualEncoder, title: str, source: Source, recipe: ReadPages, *, run: LearntRun
) -> tuple[VisionLM, LearntReport]:
    """Learn a vocabulary on rendered pages and those of the data, then let a language model read beside the model."""
    with named(str(run.spec["name"])):
        net = recipe.network(base, seed=run.seed)
        every = captioned(source, net.image_spec, run=run)
        words = recipe.words(every.texts, tokens=net.tokens, seed=run.seed)
        starting = copy.deepcopy(words)
        reader = recipe.reader(base, net, words, seed=run.seed).to(base.logit_scale.device)
    learnt, held = held_out(every.keys, source=source, seed=run.seed, what="pages")
    shown, texts = every.pixels[torch.tensor(learnt)], [every.texts[row] for row in learnt]
    deciding: dict[str, Any] = {
        "base": model_digest(cast(nn.Module, base)),
        "data": [source.name, source.version],
        "vocabulary": model_digest(net),
        "language model": model_digest(starting),
    }
    said = squeezed(every.sizes, every.keys, net.image_spec)
    remarks = [f"{every.bad:,} images were skipped, as they are bad or hold no text."] if every.bad else []
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
            guess=guess_of([every.texts[row] for row in learnt], [every.texts[row] for row in held]),
            moved=sum(one.numel() for one in moving) + (sum(one.numel() for one in net.parameters()) if first else 0),
            cpu_seconds=spent,
            remarks=[*remarks, *([f"{said}."] if said else [])],
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
