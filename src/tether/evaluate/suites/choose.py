"""Which caption for an image, and which image for a caption: the numbers of SugarCrepe, Winoground and ARO."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from tether.core.protocols import DualEncoder
from tether.data.suites.choices import ChoiceSet
from tether.evaluate.suites.measured import SuiteNumber
from tether.evaluate.suites.seen import SeenSet, kept
from tether.models.embed import encode_texts


def choose(
    model: DualEncoder,
    asked: ChoiceSet,
    seen: SeenSet,
    *,
    batch_size: int = 256,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, SuiteNumber]:
    """``text_acc``, and where a question has two images ``image_acc`` and ``acc``, both at once (the group score).

    Of equal similarities the first answer counts, as in the official code: a tie is right in SugarCrepe and in ARO's
    orders of words, wrong in its relations and attributes. ``mean_per_kind`` is the mean over the kinds of question
    that ARO takes it over.

    Args:
        model: gives the captions' embeddings.
        asked: the questions.
        seen: its images.
        batch_size: captions in one forward.
        resamples: draws of questions for the intervals; 0 makes none.
        seed: of the draws.
    """
    keys = [row.key for row in seen.rows]
    captions = [text for choice in asked.choices for text in choice.captions]
    many = len(asked.choices[0].captions)
    rows = seen.geometry.points(encode_texts(model, captions, batch_size=batch_size))
    texts = rows.view(len(asked.choices), many, -1)
    pairs = len(asked.choices[0].images)
    of = [torch.tensor(kept([choice.images[side] for choice in asked.choices], among=keys)) for side in range(pairs)]
    scores = torch.stack([_paired(seen, at, texts) for at in of], dim=1)  # (n, images, captions)
    right = torch.tensor([choice.right for choice in asked.choices])
    chosen = scores.argmax(2)
    own = scores[:, 0].gather(1, right[:, None])
    ties = int(((scores[:, 0] == own).sum(1) > 1).sum())
    text = chosen[:, 0] == right
    drawing = {"resamples": resamples, "seed": seed}
    if pairs == 1:
        found = {"text_acc": SuiteNumber.of_rows(text.numpy(), chance=1 / many, ties=ties, **drawing)}
        kinds = _kinds(asked)
        if kinds:
            hits = text.numpy().astype(np.float64)

            def value(weights: np.ndarray) -> float:
                shares = [weights[at] @ hits[at] / weights[at].sum() for at in kinds if weights[at].sum()]
                return float(np.mean(shares))

            found["mean_per_kind"] = SuiteNumber.of(
                value(np.ones(len(hits))), statistic=value, rows=len(hits), chance=0.5, **drawing
            )
        return found
    text &= chosen[:, 1] == 1 - right
    image = (scores.argmax(1) == torch.stack([right, 1 - right], dim=1)).all(1)
    luck = {"text_acc": 1 / 4, "image_acc": 1 / 4, "acc": 1 / 6}
    return {
        name: SuiteNumber.of_rows(hits.numpy(), chance=luck[name], ties=ties, **drawing)
        for name, hits in (("text_acc", text), ("image_acc", image), ("acc", text & image))
    }


def _paired(seen: SeenSet, rows: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """(n, captions) similarity of one image of each question with its captions."""
    image = seen.image[rows]
    return torch.stack([seen.geometry.paired(image, texts[:, side]) for side in range(texts.shape[1])], dim=1)


def _kinds(asked: ChoiceSet) -> list[np.ndarray]:
    found = defaultdict[str, list[int]](list)
    for number, choice in enumerate(asked.choices):
        if choice.group:
            found[choice.group].append(number)
    return [np.array(rows) for rows in found.values() if len(rows) >= asked.least]
