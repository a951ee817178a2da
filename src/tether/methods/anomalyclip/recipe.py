"""Two prompts, of an object and of a damaged one, learnt on images with masks of defects: AnomalyCLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt, MaxLen, MinLen
from torch import Tensor

from tether.adaptation.heads.defect_texts import CLASSES, DefectTextsHead
from tether.adaptation.recipes.defect_rows import DefectRows, read_defects
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import rest_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, check_text_tower
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Layer, NonNegative, PositiveRate, PositiveSingle, Whole, checked
from tether.core.types import Batch, Loss
from tether.data.defect_truths import NORMAL_LABELS, DefectTruths
from tether.losses.defects import defect_loss
from tether.models.features.find import text_anatomy
from tether.models.features.value_attention import LAST, TEMPERATURE, ValueRows, text_maps
from tether.models.texts.defect_texts import DefectTexts
from tether.models.texts.prompts import Prompts
from tether.training.schedules import Constant
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import TensorBatches

PROMPTS = "prompts"
DEEP = 8
"""Blocks after the first with vectors of their own, if there are as many."""


class AnomalyPromptsRecipe(TuneRecipe):
    """Two prompts learn on labelled defects of some products what is normal and what is damaged, for any others.

    They never say what the object is. Both towers rest, and images are read once. Masks are a folder of PNG files as
    ``tether detect --masks`` takes it, or a column; an image without one counts by its label, see
    ``data.defect_truths.DefectTruths``. What comes of it is a head for ``tether detect --with anomalyclip --head``.

    Source: AnomalyCLIP (arXiv 2310.18961) and its released code, at 518 pixels. It differs in that deep vectors are not
    rounded to 16 bits, and that images are read at the model's own size unless ``image_size`` says another.
    """

    takes = "images"
    gives = "head"
    aims = ("defects",)
    used_by = "detect"
    used_as = "--with anomalyclip --head {folder} --out report"
    simpler = "tether detect --with winclip, which learns nothing, or --with patches and good images"
    cost = 60.0

    @checked
    def __init__(
        self,
        *,
        masks: str | None = None,
        column: str = "mask",
        label: str = "label",
        normal: Sequence[str] = NORMAL_LABELS,
        words: Annotated[Sequence[str], MinLen(2), MaxLen(2)] = ("object.", "damaged object."),
        length: Count = 12,
        deep: Whole | None = None,
        deep_length: Count = 4,
        blocks: Whole | None = None,
        layers: Annotated[Sequence[Layer], MinLen(1)] = LAST,
        post_norm: bool = False,
        image_size: Count | None = None,
        temperature: PositiveSingle = TEMPERATURE,
        pixels: NonNegative = 4.0,
        epochs: Count = 15,
        batch_size: Count = 8,
        learning_rate: PositiveRate = 1e-3,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.5,
    ) -> None:
        """Take the settings.

        Args:
            masks: folder with the masks; None takes ``column``.
            column: of the data, with the masks.
            label: column of the word for an image without a mask; of a folder of images it is the folder inside.
            normal: words for images without a defect.
            words: behind the learnt vectors, of the normal and of the defective prompt.
            length: learnt vectors of each.
            deep: blocks after the first at whose input new vectors replace the first ones; None takes 8, or all.
            deep_length: how many of them.
            blocks: that are changed for patches, see ``models.features.value_attention.value_attention_features``.
            layers: blocks after which patches are read; each gives a map.
            post_norm: whether the image's embedding has the final norm.
            image_size: side in pixels; another one than the model's resizes its positions.
            temperature: cosines are divided by it.
            pixels: weight of the terms of maps, see ``losses.defects.defect_loss``.
            epochs: passes over the images.
            batch_size: images of a step.
            learning_rate: of Adam, constant.
            momentum: of Adam's mean of gradients.
        """
        self.truths = {"folder": masks, "column": column, "label": label, "normal": tuple(normal)}
        self.columns = self.truths
        self.words, self.length, self.deep, self.deep_length = tuple(words), length, deep, deep_length
        self.reading = {"blocks": blocks, "layers": tuple(layers), "post_norm": post_norm, "image_size": image_size}
        self.temperature, self.pixels, self.epochs = temperature, pixels, epochs
        self.batch_size, self.learning_rate, self.momentum = batch_size, learning_rate, momentum

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_text_tower(model)
        self.reader(model)
        self.prompts(model, seed=0)

    def reader(self, model: DualEncoder) -> ValueRows:
        """The encoder whose rows are learnt on."""
        return ValueRows(model, **self.reading)

    def prompts(self, model: DualEncoder, *, seed: int) -> Prompts:
        """The prompts as they are drawn."""
        deepest = len(text_anatomy(model).blocks) - 1
        deep = min(DEEP, deepest) if self.deep is None else self.deep
        return Prompts(
            model,
            dict(zip(CLASSES, self.words, strict=True)),
            context=self.length,
            per_class=True,
            deep=deep,
            deep_length=min(self.deep_length, self.length) if self.deep is None else self.deep_length,
            generator=torch.Generator().manual_seed(seed),
        )

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        truths, reader = DefectTruths(**self.truths), self.reader(model)
        rows = read_defects(reader, given.source, truths, workers=given.workers, on_progress=given.on_progress)
        return self.describe(model, rows, seed=given.seed)

    def describe(self, model: DualEncoder, rows: DefectRows, *, seed: int) -> Tuning:
        """The tuning on rows that are read already."""
        rest_(model)
        prompts, reader = self.prompts(model, seed=seed), self.reader(model)

        def finish() -> Outcome:
            with torch.no_grad():
                found = F.normalize(prompts().pooled.float(), dim=1)
            return Outcome(head=DefectTextsHead(DefectTexts(found, temperature=self.temperature, **self.reading)))

        return Tuning(
            step=_DefectStep(reader, temperature=self.temperature, pixels=self.pixels),
            batches=TensorBatches(rows.tensors(), batch_size=self.batch_size, seed=seed),
            steps=self.epochs * (len(rows.rows) // min(self.batch_size, len(rows.rows))),
            optimizer={"name": "adamw", "lr": self.learning_rate, "betas": (self.momentum, 0.999), "eps": 1e-8},
            schedule=Constant(),
            modules={PROMPTS: prompts},
            finish=finish,
        )


class _DefectStep(InsideStep):
    """AnomalyCLIP's loss of a batch of rows; a ``core.protocols.Step``."""

    def __init__(self, reader: ValueRows, *, temperature: float, pixels: float) -> None:
        self._reader, self._temperature, self._pixels = reader, temperature, pixels

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        texts = F.normalize(module.heads[PROMPTS]().pooled, dim=1)
        seen = self._reader.features(batch.image.to(texts))
        size = self._reader.image_spec.size
        maps = text_maps(seen.patches, texts, grid=self._reader.grid, size=size, temperature=self._temperature)
        label, mask, masked = (cast(Tensor, batch.extra[name]) for name in ("label", "mask", "masked"))
        terms = defect_loss(
            F.normalize(seen.image, dim=1) @ texts.T / self._temperature,
            maps,
            labels=label,
            masks=mask,
            masked=masked,
            pixels=self._pixels,
        )
        return Loss(terms.total, {"image": terms.image, "focal": terms.focal, "dice": terms.defective + terms.normal})
