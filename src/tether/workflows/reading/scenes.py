"""A reader that goes on with whole images in which boxes of words are marked, by ``tether adapt``; resumable."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.types import ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.boxes import cut_box
from tether.data.images import resize_and_crop
from tether.data.in_order import originals
from tether.tasks.read import DualReader, ReadScenes, SceneReader
from tether.workflows.adaptation.boxes import boxes_said
from tether.workflows.adaptation.learnt import LearntReport, LearntRun
from tether.workflows.adaptation.run import named
from tether.workflows.models import with_total
from tether.workflows.reading.learn import WordCrops, check_room, taught


def learn_scenes(
    base: DualEncoder, title: str, source: Source, recipe: ReadScenes, *, run: LearntRun
) -> tuple[SceneReader, LearntReport]:
    """Let a reader of crops go on with the scenes around them."""
    said = boxes_said(source, recipe.columns)
    with named(str(run.spec["name"])):
        reader = recipe.start(base, device=run.device, seed=run.seed)
        inner = cast(DualReader, reader.reader)
        deciding = {"reader": model_digest(inner)}
        every = _boxed(source, recipe, spec=inner.image_spec, scene=base.image_spec.fixed(), run=run)
    every = replace(every, words=[inner.charset.cased(word) for word in every.words])
    report = taught(
        reader,
        every,
        recipe,
        inner=inner,
        hint=f"{recipe.folder} reads no others; train it anew with characters=ABC or longest=N",
        base=base,
        title=title,
        source=source,
        use=f"tether read IMAGES --regions boxes.csv --head {{folder}} --model {title} --scene --out words.csv",
        run=run,
        deciding=deciding,
        said=said,
    )
    return reader, report


def _boxed(
    source: Source,
    recipe: ReadScenes,
    *,
    spec: ImageSpec,
    scene: ImageSpec,
    run: LearntRun,
) -> WordCrops:
    """Every box of every image as a crop with its phrase as the word."""
    bad, progress = BadRows(source.name, strict=run.strict), with_total(run.on_progress, source)
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
        check_room(len(pixels), spec, source=source)
        check_room(len(scenes), scene, source=source)
        if progress is not None:
            progress(len(scenes), None)
    if not words:
        raise InputError(f"{source.name}: {bad.nothing_good() if bad.latest else 'no box of an image has a word'}")
    placed = torch.from_numpy(np.stack(boxes)).float().clamp(0, 1) if recipe.position else None
    return WordCrops(names, owners, torch.stack(pixels), words, torch.stack(scenes), index, placed, bad.count)
