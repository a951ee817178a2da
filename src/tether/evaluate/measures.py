"""All measures of one model on one source."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import checked
from tether.evaluate.bootstrap import interval
from tether.evaluate.clip_score import PREFIX, clip_score
from tether.evaluate.embeddings import Embedded, embed_source
from tether.evaluate.geometry import alignment, effective_rank, modality_gap, uniformity
from tether.evaluate.groups import wilson
from tether.evaluate.retrieval import Depths, chance, ranks
from tether.evaluate.zero_shot import logits, zero_shot
from tether.models.embed import encode_texts
from tether.models.texts.long_texts import CutNotice, LongTexts, reading

Measure = Literal["retrieval", "zero_shot", "geometry", "clip_score", "text_retrieval"]
MEASURES: tuple[Measure, ...] = ("retrieval", "zero_shot", "geometry", "clip_score")
"""Those that are taken unless others are asked for."""
_WANTS: dict[str, str] = {
    "retrieval": "captions",
    "zero_shot": "a label column",
    "geometry": "captions",
    "clip_score": "captions, and a model that compares by cosine or dot product",
    "text_retrieval": "two different captions of one image",
}
"""What rows must have for each."""
UNIFORMITY_ROWS = 10_000
"""Uniformity looks at all pairs of at most this many evenly spaced rows."""


@checked
def evaluate(
    model: DualEncoder,
    source: Source,
    *,
    measures: Sequence[Measure] = MEASURES,
    k: Depths = (1, 5, 10),
    label: str | None = None,
    templates: Sequence[str] | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    long_text: LongTexts = "cut",
    precision: Literal["float32", "bfloat16"] = "float32",
    workers: int = 0,
    strict: bool = False,
    on_bad: Path | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, float]:
    """Measure a model on a source; what the rows do not allow is left out, but not all of it.

    Retrieval, geometry and CLIPScore need captions; zero-shot needs a label for each row. Retrieval and zero-shot
    compare as the model does (``core.geometry``). Keys:

    * ``images``, ``texts``, ``seconds`` (all of it, reading included);
    * ``text_to_image_r1`` ... ``image_to_text_r10``, ``..._mean_rank``, ``..._median_rank``: see ``recall_at_k``;
    * ``<recall>_chance``, ``<top-k>_chance``: what a model that knows nothing reaches;
    * ``text_to_text_r1`` ... for ``text_retrieval``: captions look for another one of their image, see ``text_ranks``;
      ``text_to_text_bag_of_words_r1`` ...: what captions reach that are compared by their words alone (TF-IDF);
    * ``zero_shot_top1``, ``zero_shot_top5``, ``zero_shot_mean_per_class``, ``classes``;
    * ``gap_distance``, ``gap_squared``, ``gap_mean_squared``, ``alignment``, ``uniformity_image``,
      ``uniformity_text``, ``effective_rank_image``, ``effective_rank_text``, all of unit embeddings;
    * ``clip_score``: mean over pairs, for models that compare by cosine or dot product;
    * with ``bootstrap``, ``<key>_low`` and ``<key>_high`` for every one that is a mean over rows.

    Args:
        model: any model that ``tether.load`` gives.
        source: any source that ``data.open_source`` gives.
        measures: which to take.
        k: depths of the recalls.
        label: column of the class; None takes ``label`` where rows have it.
        templates: prompts with ``{}`` for the class name; None takes those that suit the model.
        batch_size: rows in one forward.
        limit: look at this many rows, from the first.
        bootstrap: resamples for 95 % intervals; 0 makes none.
        seed: of the resamples.
        long_text: what is done with texts past the model's context, see ``models.texts.long_texts``; of those that are
            cut, a ``TextCutWarning`` says how many they are.
        precision: ``bfloat16`` runs the towers under autocast.
        workers: threads that decode images.
        strict: stop at the first bad row instead of skipping it.
        on_bad: JSON-lines file that names the rows skipped.
        on_progress: called with (images done, None).

    Raises:
        InputError: rows that allow none of the measures.
    """
    start = time.perf_counter()
    reader = reading(model, long_text)
    notice = CutNotice(reader)
    with notice.watching():
        seen = embed_source(
            reader,
            source,
            batch_size=batch_size,
            limit=limit,
            label=label,
            precision=precision,
            workers=workers,
            strict=strict,
            on_bad=on_bad,
            on_progress=on_progress,
        )
    check_measurable(seen, where=source.name)
    with notice.watching():
        result = measure(
            reader,
            seen,
            measures=measures,
            k=k,
            templates=templates,
            batch_size=batch_size,
            bootstrap=bootstrap,
            seed=seed,
        )
    if not result.keys() - {"images", "texts"}:
        wanted = "; ".join(f"{name} expects rows with {_WANTS[name]}" for name in measures)
        raise InputError(f"{source.name}: nothing to measure: {wanted}")
    return result | {"seconds": time.perf_counter() - start}


def check_measurable(seen: Embedded, *, where: str) -> None:
    """Refuse pairs that say nothing to measure by."""
    if not seen.captions and not seen.labels:
        from tether.data.sources.advice import caption_advice

        raise InputError(
            f"{where}: rows have neither captions nor a label column, so there is nothing to measure"
            f"{caption_advice(where)}"
        )


def measure(
    model: DualEncoder,
    seen: Embedded,
    *,
    measures: Sequence[Measure] = MEASURES,
    k: Depths = (1, 5, 10),
    templates: Sequence[str] | None = None,
    batch_size: int = 256,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """What ``evaluate`` gives, without ``seconds``, from embeddings that are there already."""
    geometry, owner = seen.geometry, seen.text_to_image
    image, text = geometry.points(seen.image), geometry.points(seen.text)
    result: dict[str, float] = {"images": float(len(image)), "texts": float(len(text))}
    means = _Means(len(image))
    if len(text) and "retrieval" in measures:
        found = ranks(image, text, text_to_image=owner, similarity=geometry.similarity)
        result |= found.summary(k=k) | chance(owner, images=len(image), k=k)
        asked = found.image_to_text > 0
        for depth in k:
            means.add(f"image_to_text_r{depth}", (found.image_to_text <= depth) & asked, asked)
            means.add_texts(f"text_to_image_r{depth}", found.text_to_image <= depth, owner)
    if "text_retrieval" in measures:
        result |= _text_retrieval(text, seen, k=k, means=means)
    if seen.labels and "zero_shot" in measures:
        from tether.tasks.classify.zero_shot import class_weights

        classes = seen.classes
        weights = class_weights(model, classes, templates=templates, batch_size=batch_size)
        found = zero_shot(logits(image, weights=weights, geometry=geometry), labels=seen.label_numbers)
        result |= {
            "zero_shot_top1": found.top1,
            "zero_shot_top5": found.top5,
            "zero_shot_mean_per_class": found.mean_per_class,
            "classes": float(len(classes)),
            **{f"zero_shot_top{depth}_chance": min(1.0, depth / len(classes)) for depth in (1, 5)},
        }
        for depth in (1, 5):
            means.add(f"zero_shot_top{depth}", found.ranks <= depth, torch.ones_like(found.ranks))
    if len(text) and "geometry" in measures:
        result |= _geometry(F.normalize(seen.image, dim=-1), F.normalize(seen.text, dim=-1), owner)
    if len(text) and "clip_score" in measures and (geometry.unit or not geometry.never_positive):
        prefixed = encode_texts(model, [PREFIX + caption for caption in seen.captions], batch_size=batch_size)
        score = clip_score(seen.image[owner], prefixed, geometry=geometry)
        result["clip_score"] = score.double().mean().item()
        means.add_texts("clip_score", score, owner)
    if bootstrap:
        result |= means.intervals(resamples=bootstrap, seed=seed)
    return result


def _text_retrieval(text: Tensor, seen: Embedded, *, k: Sequence[int], means: _Means) -> dict[str, float]:
    """Of captions whose image has another, beside the same by words alone; nothing where no image has two."""
    owner = seen.text_to_image
    pairs = set(zip(owner.tolist(), seen.captions, strict=True))
    if len(pairs) == len({row for row, _ in pairs}):
        return {}
    from tether.evaluate.text_retrieval import bag_of_words_ranks, text_chance, text_ranks

    found = text_ranks(text, owner, similarity=seen.geometry.similarity)
    asked, of = found[found > 0], owner[found > 0]
    ordered = asked.sort().values
    middle = float((ordered[(len(asked) - 1) // 2] + ordered[len(asked) // 2]) // 2)
    ranks = {"text_to_text_mean_rank": asked.double().mean().item(), "text_to_text_median_rank": middle}
    recalls: dict[str, float] = {}
    words = bag_of_words_ranks(seen.captions, owner)
    for name, each in (("text_to_text", asked), ("text_to_text_bag_of_words", words[words > 0])):
        for depth in k:
            recalls[f"{name}_r{depth}"] = (each <= depth).double().mean().item()
            means.add_texts(f"{name}_r{depth}", each <= depth, of)
    return recalls | ranks | text_chance(owner, k=k)


def _geometry(image: Tensor, text: Tensor, owner: Tensor) -> dict[str, float]:
    values = {
        f"gap_{name}": modality_gap(image, text, variant=name) for name in ("distance", "squared", "mean_squared")
    }
    values["alignment"] = alignment(image[owner], text)
    for side, rows in (("image", image), ("text", text)):
        if len(rows) > 1:
            values[f"uniformity_{side}"] = uniformity(at_most(rows, UNIFORMITY_ROWS))
        values[f"effective_rank_{side}"] = effective_rank(rows)
    return {name: value.item() for name, value in values.items()}


def at_most(rows: Tensor, most: int) -> Tensor:
    """Evenly spaced rows, at most ``most`` of them."""
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]


class _Means:
    """Numerators and denominators by image, for intervals."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.names: list[str] = []
        self.sums: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []

    def add(self, name: str, values: Tensor, counts: Tensor) -> None:
        self.names.append(name)
        self.sums.append(values.double().numpy())
        self.counts.append(counts.double().numpy())

    def add_texts(self, name: str, values: Tensor, owner: Tensor) -> None:
        zeros = torch.zeros(self.images, dtype=torch.float64)
        values = values.double()
        self.add(name, zeros.index_add(0, owner, values), zeros.index_add(0, owner, torch.ones_like(values)))

    def intervals(self, *, resamples: int, seed: int) -> dict[str, float]:
        if not self.names:
            return {}
        sums, counts = np.stack(self.sums, 1), np.stack(self.counts, 1)
        bounds = interval(sums, counts=counts, resamples=resamples, seed=seed)
        for column in np.flatnonzero(
            bounds[:, 0] == bounds[:, 1]
        ):  # all right or all wrong: drawing again tells nothing
            asked, value = int((counts[:, column] > 0).sum()), float(bounds[column, 0])
            if value in (0.0, 1.0):
                found = wilson(round(value) * asked, n=asked)
                bounds[column] = found.low, found.high
        return {
            f"{name}_{side}": float(bounds[row, column])
            for row, name in enumerate(self.names)
            for column, side in enumerate(("low", "high"))
        }
