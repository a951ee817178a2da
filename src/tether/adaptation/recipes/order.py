"""A small network beside a frozen encoder learns to order images by a text: the ranking-aware adapter as a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, MinLen
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.adaptation.heads.order import OrderHead
from tether.adaptation.recipes.given import ROWS, Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Decay, NonNegative, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch, Loss
from tether.data.in_order import ordered
from tether.data.labelled import label_of
from tether.data.rank_groups import RankGroups
from tether.data.rated import number_of
from tether.losses.ranking import Component, ranking_loss
from tether.models.embed import encode_images
from tether.models.features.token_rows import TokenRows, text_tokens
from tether.models.heads.ranking_adapter import RankingAdapter
from tether.training.steps.module import InsideStep, StepModule

ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class OrderRows:
    """What the adapter learns from; it lies in memory, n * v * p * d float32.

    Attributes:
        tokens: (n, v, p, d) of the images, v views of each.
        targets: (n,) their numbers.
        texts: what they are ordered by.
        groups: (n,) number of each one's text.
    """

    tokens: Float[Tensor, "n v p d"]
    targets: Float[Tensor, " n"]
    texts: tuple[str, ...]
    groups: Int[Tensor, " n"]

    def part(self, rows: Int[Tensor, " m"]) -> OrderRows:
        """Some of them."""
        return OrderRows(self.tokens[rows], self.targets[rows], self.texts, self.groups[rows])


class OrderRecipe(TuneRecipe):
    """Scores of images by a text from images with a number each: what is damaged most, what is of the best quality.

    Both towers rest; the adapter reads all their tokens, once. Each step is one group of images of one text. With
    several texts a share of each group are images of other texts with the number 0, which is right for counts and wrong
    for ratings. What comes of it is a head for ``tether rank --head``, in the unit of the numbers. The report compares
    the order on held-out images with that of the text alone; ridge regression on embeddings or patches, which costs
    seconds, is measured by ``tether rank --examples``.

    Source: arXiv 2412.06760 and its released code, whose groups are of 64 at a rate of 5e-5. It differs in that the
    numbers are brought to a spread of 1, tokens to one length, that a small run's rate is higher, and that images are
    prepared as the encoder wants them, which may cut margins off.
    """

    takes = "images"
    gives = "head"
    aims = ("order",)
    used_by = "rank"
    simpler = "ridge regression: tether rank --examples"
    cost = 60.0

    @checked
    def __init__(
        self,
        *,
        column: str = "score",
        text: str | None = None,
        text_column: str | None = None,
        steps: Count = 300,
        group: Annotated[int, Ge(2)] = 16,
        negatives: Decay = 0.2,
        components: Annotated[Sequence[Component], MinLen(1)] = ("rank", "regression"),
        reg_weight: NonNegative = 0.2,
        mask_ties: bool = False,
        learning_rate: PositiveRate = 5e-4,
        weight_decay: Rate = 0.01,
        flip: Literal["none", "half"] = "half",
        n_layers: Count = 2,
        n_heads: Count | None = None,
        n_rank_tokens: Count = 16,
        n_text_tokens: Whole = 32,
        prompts: Literal["scalar", "vector"] = "scalar",
    ) -> None:
        """Take the settings; exactly one of ``text`` and ``text_column``.

        Args:
            column: of the data, with the numbers.
            text: what images are ordered by, such as "how damaged".
            text_column: of the data, with the text that each image is ordered by.
            steps: of the adapter.
            group: images of a step.
            negatives: share of a step that are images of other texts with the number 0.
            components: of the loss, see ``losses.ranking_loss``.
            reg_weight: of the regression.
            mask_ties: leave pairs of equal numbers out.
            learning_rate: it falls to 0 as a cosine.
            weight_decay: on matrices only.
            flip: ``half`` exchanges left and right in half of the images; wrong for lettering.
            n_layers: of the adapter, see ``models.heads.ranking_adapter.RankingAdapter``.
            n_heads: of its attentions; None takes 8, or the greatest divisor of the width below.
            n_rank_tokens: what looks at a pair.
            n_text_tokens: learnt prompts before the text.
            prompts: one number for each, as released, or a vector.
        """
        if (text is None) == (text_column is None):
            raise InputError("recipe order: expected one of text and text_column (a column), and not both")
        if text is not None and not text.strip():
            raise InputError("recipe order: text: expected words, got none")
        self.column, self.text, self.text_column = column, text, text_column
        self.columns = {"value": column, "text": text_column}
        self.steps, self.group, self.negatives, self.flip = steps, group, negatives, flip
        self.loss = {"components": tuple(components), "reg_weight": reg_weight, "mask_ties": mask_ties}
        self.learning_rate, self.weight_decay, self.n_heads = learning_rate, weight_decay, n_heads
        self.shape: dict[str, Any] = {"n_layers": n_layers, "n_rank_tokens": n_rank_tokens}
        self.shape |= {"n_text_tokens": n_text_tokens, "prompts": prompts}

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        self._adapter(TokenRows(model).width, seed=0)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rows = self.read(model, given.source, workers=given.workers, on_progress=given.on_progress)
        return self.describe(model, rows, seed=given.seed)

    def read(
        self,
        model: DualEncoder,
        source: Source,
        *,
        workers: int = 0,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> OrderRows:
        """The images of a source as tokens, with their numbers and texts.

        Raises:
            InputError: fewer than two images, one without a number or a text, or the same number for all.
        """
        reader, where = TokenRows(model), f"recipe order: {source.name}"
        views = 1 if self.flip == "none" else 2
        tokens, numbers, texts = [], [], []
        for rows, pixels in ordered(source, image_spec=reader.image_spec, batch_size=ROWS, workers=workers):
            numbers += [number_of(row, str(self.column), where=where) for row in rows]
            texts += [self.text or label_of(row, str(self.text_column)) for row in rows]
            seen = [encode_images(reader, [view]) for view in (pixels, pixels.flip(3))[:views]]
            tokens.append(torch.stack([reader.tokens(one) for one in seen], dim=1))
            if on_progress is not None:
                on_progress(len(numbers), None)
        if None in texts:
            raise InputError(f"{where}: image {texts.index(None)} (from 0) has nothing in column {self.text_column!r}")
        if len(set(numbers)) < 2:
            raise InputError(f"{where}: {len(numbers)} images, all with {self.column} {numbers[0]}: nothing to order")
        names = tuple(dict.fromkeys(cast("list[str]", texts)))
        groups = torch.tensor([names.index(cast(str, text)) for text in texts])
        return OrderRows(torch.cat(tokens), torch.tensor(numbers, dtype=torch.float32), names, groups)

    def describe(self, model: DualEncoder, rows: OrderRows, *, seed: int) -> Tuning:
        """The tuning on rows that are read already."""
        rest_(model)
        patches, width = rows.tokens.shape[2:]
        adapter = self._adapter(width, seed=seed)
        scale = float(rows.targets.std()) or 1.0
        nn.init.constant_(cast(nn.Linear, adapter.score_head[-1]).bias, float(rows.targets.mean()) / scale)
        tokens, mask = text_tokens(model, rows.texts)

        def finish() -> Outcome:
            return Outcome(
                head=OrderHead(adapter, tokens=tokens, mask=mask, texts=rows.texts, patches=patches, scale=scale)
            )

        return Tuning(
            step=_OrderStep(tokens, mask, self.loss),
            batches=RankGroups(
                {"image": rows.tokens},
                targets=rows.targets / scale,
                groups=rows.groups,
                size=self.group,
                negatives=self.negatives,
                seed=seed,
            ),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            training=[adapter],
            modules={ADAPTER: adapter},
            finish=finish,
        )

    def _adapter(self, width: int, *, seed: int) -> RankingAdapter:
        heads = math.gcd(8, width) if self.n_heads is None else self.n_heads
        generator = torch.Generator().manual_seed(seed)
        return RankingAdapter(width, n_heads=heads, generator=generator, **self.shape)


class _OrderStep(InsideStep):
    """The ranking loss of a group under its text; a ``core.protocols.Step``."""

    def __init__(self, tokens: Float[Tensor, "k l d"], mask: Tensor, settings: Mapping[str, Any]) -> None:
        self._tokens, self._mask, self._settings = tokens, mask, settings

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        target, group, draw = (cast(Tensor, batch.extra[name]) for name in ("target", "group", "draw"))
        views, text = batch.image.shape[1], int(group[0])
        image = batch.image[torch.arange(len(draw), device=draw.device), (views * draw).long()]
        tokens, mask = (rows[text : text + 1].to(image.device) for rows in (self._tokens, self._mask))
        found = module.heads[ADAPTER](image, tokens, text_mask=mask)
        return ranking_loss(found.scores, found.pair_logits, target, **self._settings)
