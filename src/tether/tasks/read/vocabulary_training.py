"""How a vocabulary learns to read: a language model writes what stands on rendered pages, from its tokens alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from tether.core.ranges import Count, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch
from tether.data.lettering.pages import DrawnPages
from tether.models.encoders.causal_lm import CausalLM
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.tasks.read.learning import learn_
from tether.tasks.read.merged_vision import MergedVision, VisionTokens
from tether.tasks.read.vision_lm import VisionLM
from tether.training.loop import StepReport

NO_TEXT = "no text"
"""What is written of an image without text."""


@checked
def pretrain_vocabulary(
    net: VisionVocabulary,
    language_model: CausalLM,
    pages: DrawnPages,
    *,
    negatives: UInt8[Tensor, "m 3 h w"] | None = None,
    answer: str = NO_TEXT,
    words_steps: Whole = 0,
    steps: Count = 2000,
    batch_size: Count = 32,
    learning_rate: PositiveRate = 1e-3,
    weight_decay: Rate = 0.05,
    longest: Count = 64,
    seed: Whole = 0,
    folder: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> VisionLM:
    """Let a vocabulary learn in place, by a language model that writes what stands on pages from its tokens alone.

    Both learn, and nothing but the text is a target. Images without text are answered by fixed words, so that none is
    read where none is.

    A language model with random weights first learns which words follow which, and uses the image tokens for that too:
    within some ten steps all of them grow one and the same part, beside which what tells images apart is lost, and
    nothing is ever read. Weights of ``small_causal_lm(..., std=width ** -0.5)``, ``words_steps``, and a rate of 0.001
    rather than 0.003 prevent it.

    Source: Vary (arXiv 2312.06109, section 3.2; "Vary-tiny"), ``train_opt.py``.

    Args:
        net: that learns.
        language_model: that learns with it, and can be thrown away afterwards.
        pages: rendered, see ``data.lettering.pages``.
        negatives: images without text.
        answer: what is written of them.
        words_steps: of the language model alone, before, while vocabulary and map rest; for one with random weights.
        steps: of AdamW, of all together.
        batch_size: images of a step.
        learning_rate: after the warm-up; released: 5e-5, with a pretrained language model.
        weight_decay: of matrices.
        longest: most tokens of a text; longer ones are cut.
        seed: of the maps and the order.
        folder: of checkpoints, the newest of which is resumed; None keeps none.
        on_step: told each step of all together.
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

    Returns:
        A reader without a CLIP, in eval mode, whose vocabulary is ``net``.

    Raises:
        InputError: no pages, images of another kind, or more words than the context.

    Example:
        >>> from tether.data.lettering.pages import draw_pages
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> from tether.models.encoders.vision_vocabulary import VisionVocabulary
        >>> from tether.tasks.read import pretrain_vocabulary
        >>> pages = draw_pages(["7 A", "B 2"], size=64, points=(10, 14))
        >>> net = VisionVocabulary(
        ...     image_size=64, patch=8, width=32, depth=1, heads=2, window=4, global_blocks=[], channels=[16, 24]
        ... )
        >>> words = small_causal_lm(pages.texts, width=32, layers=1)
        >>> reader = pretrain_vocabulary(net, words, pages, steps=2, batch_size=2)
        >>> reader.vision.vocabulary is net
        True
    """
    reader = VisionLM(MergedVision(None, net, lm_dim=language_model.dim, seed=seed), language_model)
    seen = reader.vision.prepare(pages.image).vocabulary
    assert seen is not None
    texts = list(pages.texts)
    if negatives is not None and len(negatives):
        others = reader.vision.prepare(negatives).vocabulary
        assert others is not None
        seen, texts = torch.cat([seen, others]), texts + [answer] * len(others)
    ids, labels = reader.texts([""] * len(texts), texts, shown=[True] * len(texts), longest=longest)

    def loss(batch: Batch, generator: torch.Generator) -> Tensor:
        return reader.loss(
            VisionTokens(None, reader.vision.read(batch.image)), batch.text, cast(Tensor, batch.extra["labels"])
        )

    def learn(
        part: nn.Module, steps: int, folder: Path | None, on_step: Callable[[StepReport], None] | None = None
    ) -> None:
        learn_(
            reader,
            loss,
            {"image": seen, "text": ids, "labels": labels},
            moves=list(part.parameters()),
            training=[part],
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
            folder=folder,
            on_step=on_step,
            should_stop=should_stop,
        )

    if words_steps:
        learn(language_model, words_steps, None if folder is None else folder / "words")
    learn(reader, steps, folder, on_step)
    return reader
