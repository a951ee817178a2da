"""Where classes are, better told: an adapter on a frozen encoder learns from which classes each image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.masks import MOST_CLASSES, class_rows, heads_of
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, NonNegative, PositiveRate, Rate, Share, Whole, checked
from tether.data.regions import RegionColumns
from tether.methods.excel_wsss.class_maps import BLOCKS
from tether.methods.excel_wsss.distill import ADAPTER, DECODER, LabelMaker, RelationStep
from tether.methods.excel_wsss.head import RelationHead
from tether.methods.excel_wsss.patch_relation import ExcelAdapter, ExcelDecoder
from tether.models.features.find import anatomy_of
from tether.training.schedules import Cosine


class RelationRecipe(TuneRecipe):
    """An adapter learns how patches relate, for ``tether segment --with excel --head``; masks and boxes are not needed.

    A column says which classes each image shows. Maps of them, which the frozen encoder makes without training, become
    labels of pixels; a decoder learns these, and the adapter under it. Only the adapter is kept.

    Source: ExCEL (arXiv 2503.20826). There 30,000 steps of 4 crops or more, and a rate that falls in a straight line;
    here images are taken whole and the rate falls as a cosine. The decoder, which the paper asks for masks at the end,
    is left out of the head.
    """

    takes = "images"
    gives = "head"
    used_by = "segment"
    used_as = "--with excel --head {folder} --classes NAMES --out masks"
    simpler = "tether segment --with excel, which needs no head"
    cost = 300.0

    @checked
    def __init__(
        self,
        *,
        shows: str = "phrases",
        classes: Sequence[str] | None = None,
        background: Sequence[str] = (),
        templates: Sequence[str] = ("a clean origami {}.",),
        blocks: Count = BLOCKS,
        spread: Literal["attention", "none"] = "attention",
        low: Share = 0.25,
        high: Share = 0.7,
        rounds: Whole = 10,
        affinity: NonNegative = 0.1,
        radius: Whole = 8,
        calibrated: Share = 0.47,
        own: Share = 0.8,
        dim: Count = 256,
        hidden: Count = 256,
        depth: Count = 3,
        steps: Count = 1000,
        batch_size: Count = 4,
        learning_rate: PositiveRate = 1e-4,
        weight_decay: Rate = 0.01,
    ) -> None:
        """Take the settings.

        Args:
            shows: column with a list of the classes that an image shows.
            classes: those that count; None takes all of the data.
            background: words for what is none of them.
            templates: sentences with ``{}`` for a class.
            blocks: that are changed, see ``methods.excel_wsss.class_maps.self_correlation_features``.
            spread: see ``methods.excel_wsss.distill.LabelMaker``, as the next three.
            low: value of a map below which nothing is there.
            high: above which it is sure.
            rounds: of averaging over pixels that look alike.
            affinity: weight of the loss of the adapter's affinities.
            radius: rows and columns that two patches may lie apart in it.
            calibrated: share of the steps after which the adapter makes the maps better.
            own: share after which the decoder says which patches are of one class.
            dim: of the adapter's feature.
            hidden: channels of its MLPs.
            depth: layers of the decoder.
            steps: of the run.
            batch_size: images of a step.
            learning_rate: it falls to 0 as a cosine.
            weight_decay: of matrices.
        """
        self.shows, self.classes, self.background, self.templates = shows, classes, background, templates
        self.blocks, self.spread, self.low, self.high, self.rounds = blocks, spread, low, high, rounds
        self.affinity, self.radius, self.calibrated, self.own = affinity, radius, calibrated, own
        self.dim, self.hidden, self.depth = dim, hidden, depth
        self.steps, self.batch_size = steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        anatomy_of(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        rest_(model)
        classes, shown = self._shown(given.source)
        texts = class_rows(model, [*classes, *self.background], templates=self.templates)
        tower = anatomy_of(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            adapter = ExcelAdapter(layers=len(tower.blocks), width=tower.width, dim=self.dim, hidden=self.hidden)
            decoder = ExcelDecoder(classes=1 + len(classes), dim=self.dim, heads=heads_of(self.dim), depth=self.depth)
        maker = LabelMaker(
            texts=texts,
            classes=len(classes),
            blocks=self.blocks,
            spread=self.spread,
            low=self.low,
            high=self.high,
            rounds=self.rounds,
        )
        scale = float(model.logit_scale.detach())
        rows = texts[: len(classes)]
        return Tuning(
            step=RelationStep(
                maker,
                shown=shown,
                affinity=self.affinity,
                radius=self.radius,
                calibrated=round(self.calibrated * self.steps),
                own=round(self.own * self.steps),
            ),
            batches=given.loader(model, batch_size=self.batch_size, image_spec=model.image_spec.fixed()),
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            schedule=Cosine(warmup=max(1, min(50, self.steps // 10))),
            training=[adapter, decoder],
            modules={ADAPTER: adapter, DECODER: decoder},
            finish=lambda: Outcome(
                head=RelationHead(adapter, rows=rows, classes=classes, scale=scale, blocks=self.blocks)
            ),
        )

    def _shown(self, source: Source) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
        """The names of the classes, sorted, and by the key of a row the numbers of those that it shows.

        Raises:
            InputError: fewer than two classes, or more than 255.
        """
        columns = RegionColumns(most=1, phrases=self.shows)
        said = {
            row.key: {text for text in columns.phrases_of(row) if text.strip()}
            for block in source.blocks()
            for row in source.read(block)
            if row.image is not None
        }
        names = sorted({name for some in said.values() for name in some} if self.classes is None else {*self.classes})
        if not 2 <= len(names) < MOST_CLASSES:
            raise InputError(
                f"{source.name}: expected 2 to {MOST_CLASSES - 1} classes in {self.shows!r}, got {len(names)}"
            )
        number = {name: place for place, name in enumerate(names)}
        return tuple(names), {key: tuple(sorted(number[one] for one in some & {*number})) for key, some in said.items()}
